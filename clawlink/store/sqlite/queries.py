"""The queries of the store."""

from __future__ import annotations

IDS = "SELECT DISTINCT id FROM record INDEXED BY record_id WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
# The first lapsed ones, and then those that are ready.
DUE = (
    "SELECT * FROM (SELECT row, id, version, cost, sort_key, later FROM record INDEXED BY record_later "
    "WHERE partition_key = ? AND later <= ? AND (later, row) > (?, ?) ORDER BY later, row LIMIT ?) "
    "UNION ALL SELECT * FROM (SELECT row, id, version, cost, sort_key, NULL FROM record INDEXED BY record_ready "
    "WHERE partition_key = ? AND ready_at IS NOT NULL ORDER BY sort_key LIMIT ?)"
)
FIRST_READY = (
    "SELECT ready_at FROM record INDEXED BY record_ready "
    "WHERE partition_key = ? AND ready_at IS NOT NULL ORDER BY sort_key LIMIT 1"
)
FIRST_LATER = (
    "SELECT later FROM record INDEXED BY record_later "
    "WHERE partition_key = ? AND later IS NOT NULL ORDER BY later LIMIT 1"
)
WAITING = (
    "SELECT row, id, version, cost FROM record INDEXED BY record_later "
    "WHERE partition_key = ? AND later IS NOT NULL ORDER BY later"
)
ALL_READY = (
    "SELECT row, id, version, cost FROM record INDEXED BY record_ready "
    "WHERE partition_key = ? AND ready_at IS NOT NULL ORDER BY sort_key"
)
ENDING = (
    "SELECT row, id, version, cost FROM record INDEXED BY record_ends WHERE kind = ? AND ends_at <= ? ORDER BY ends_at"
)
LISTED = (
    "SELECT r.row, r.id, r.version, r.cost, e.number FROM entry e JOIN record r ON r.row = e.row "
    "WHERE e.kind = ? AND e.key = ?"
)
COUNT = "SELECT count(*), coalesce(sum(weight), 0) FROM entry WHERE kind = ? AND key = ?"
COUNT_FEW = (
    "SELECT count(*), coalesce(sum(weight), 0) FROM (SELECT weight FROM entry WHERE kind = ? AND key = ? LIMIT ?)"
)
ORIGINS_OF_MAILBOX = (
    "SELECT address, agent, count(*), sum(held) FROM record WHERE row IN ("
    "SELECT row FROM record WHERE partition_key = :partition_key AND ready_at IS NOT NULL "
    "UNION SELECT row FROM record WHERE partition_key = :partition_key AND later IS NOT NULL "
    "UNION SELECT row FROM entry WHERE kind = :kind AND key = :dead"
    ") GROUP BY address, agent"
)
ORIGINS_OF_INDEX = (
    "SELECT r.address, r.agent, count(*), sum(e.weight) FROM entry e JOIN record r ON r.row = e.row "
    "WHERE e.kind = ? AND e.key = ? GROUP BY r.address, r.agent"
)
# Python counts them in half the time that SQLite needs to sort and group them.
HELD = "SELECT partition_key, address, agent, held, cost FROM record"
