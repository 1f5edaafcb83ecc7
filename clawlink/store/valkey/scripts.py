"""The Lua scripts, each one step of the server. ``KEYS[1]`` is the mesh in braces: the hash tag of all keys.

r:KIND            hash, the bytes of each record by its id
f:KIND            hash, the facts of each record (``clawlink.store.valkey.facts``)
o:KIND            sorted set, all ids by their bytes
i:KIND:KEY        sorted set, the ids under an index key by the number of their arrival
e:KIND            sorted set, ids by the time at which they end
q:MAILBOX         sorted set, pending deliveries that are due, by sort key
l:MAILBOX         sorted set, the other pending deliveries by the time at which they are due
n                 hash, counts: how many records, and their bytes, as two doubles
changed           hash, the earlier facts of records whose origins are not counted yet, by kind and id
arrivals          the last number of an arrival
content:SHA-256   a content of a file
contents          sorted set, the SHA-256 of all contents by the time at which they came last
folders           set, those of them that lie in the folder of --blobs
going:SHA-256     there while a relay removes that content from the folder
reading:FILE      the relay that hands out a file which only one may read
lead              the relay that looks after the records
lease:NAME        the token of the relay that has this lease
meta              hash: layout, secret, when a relay was there last (alive), the last token of each lease (lease:NAME),
                  and 1 if relays have a folder for contents (folder)
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Script(NamedTuple):
    """A script, and the SHA-1 by which the server finds it."""

    text: str
    sha: str


def _script(flags: str, body: str) -> Script:
    text = f"#!lua flags={flags}\n{body}" if flags else f"#!lua\n{body}"
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


# Several scripts share this. Counts of a scope are two numbers, of records and of bytes. ``add`` changes them in
# ``records`` and ``sizes``, and ``store`` writes what has changed there. ``settle`` brings the counts of origins up to
# date: ``changed`` has the facts that each changed record had when these counts were last right.
_COUNTS = """
local base = KEYS[1]
local facts_of, counts_key, changed_key = base .. ':f:', base .. ':n', base .. ':changed'
local records, sizes = {}, {}
local function add(scope, number, size)
  records[scope] = (records[scope] or 0) + number
  sizes[scope] = (sizes[scope] or 0) + size
end
local function store()
  local scopes, amount = {}, 0
  for scope, number in pairs(records) do
    if number ~= 0 or sizes[scope] ~= 0 then
      amount = amount + 1
      scopes[amount] = scope
    end
  end
  for from = 1, amount, 500 do
    local to = math.min(from + 499, amount)
    local had = redis.call('HMGET', counts_key, unpack(scopes, from, to))
    local words, count, gone = {}, 0, {}
    for n = from, to do
      local scope, old = scopes[n], had[n - from + 1]
      local number, size = records[scope], sizes[scope]
      if old then
        local before, held = struct.unpack('>dd', old)
        number, size = before + number, held + size
      end
      if number == 0 then
        gone[#gone + 1] = scope
      else
        words[count + 1], words[count + 2], count = scope, struct.pack('>dd', number, size), count + 2
      end
    end
    if count > 0 then redis.call('HSET', counts_key, unpack(words)) end
    if #gone > 0 then redis.call('HDEL', counts_key, unpack(gone)) end
  end
end
local function add_origin(kind, f, sign)
  if not f[7] then return end
  for x = 6, 7 do
    local by = f[x]
    for _, key in ipairs(f[3]) do add('i' .. kind .. ':' .. key .. by, sign, sign * f[4]) end
    if f[5] then
      add('m' .. f[2] .. by, sign, sign * f[5])
      add('t' .. by, sign, sign * f[5])
    end
    add('c' .. by, sign, sign * f[8])
  end
end
local function settle()
  local all = redis.call('HGETALL', changed_key)
  if #all == 0 then return end
  records, sizes = {}, {}
  for n = 1, #all, 2 do
    local kind, id = string.match(all[n], '^([^:]*):(.*)$')
    local before, now = all[n + 1], redis.call('HGET', facts_of .. kind, id) or ''
    if before ~= now then
      if now ~= '' then add_origin(kind, cmsgpack.unpack(now), 1) end
      if before ~= '' then add_origin(kind, cmsgpack.unpack(before), -1) end
    end
  end
  store()
  redis.call('DEL', changed_key)
end
"""

# ARGV: the lease and the token of the fence ("" for none). Then for each partition its key and the number of its
# changes. For each change its letter (P put, D drop, A absent), kind, id and the version that must be stored (0 for
# none); for a put its facts and its bytes, too. The partitions commit in this order, up to a conflict. Returns 0, or
# the number of the change that conflicts, or -1 if another relay has the lease, or none. The counts of origins wait
# until 128 records have changed: most of these have gone again by then.
FENCED = -1
_COMMIT = (
    _COUNTS
    + """
if ARGV[1] ~= '' and redis.call('GET', base .. ':lease:' .. ARGV[1]) ~= ARGV[2] then return -1 end
local partition
local at, seen, waits = 3, 0, false
local function parsed()
  local changes, count = {}, tonumber(ARGV[at + 1])
  partition, at = ARGV[at], at + 2
  for n = 1, count do
    local c = {ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])}
    at = at + 4
    if c[1] == 'P' then
      c[5], c[6] = ARGV[at], ARGV[at + 1]
      at = at + 2
    end
    changes[n] = c
  end
  return changes
end
local function conflict(changes)
  for n, c in ipairs(changes) do
    local raw = redis.call('HGET', facts_of .. c[2], c[3])
    if c[1] == 'A' then
      if raw then return n end
    elseif raw then
      local old = cmsgpack.unpack(raw)
      if old[1] ~= c[4] or old[2] ~= partition then return n end
      c.old, c.raw = old, raw
    elseif c[4] ~= 0 then
      return n
    end
  end
end
local function same(one, other)
  for n = 1, math.max(#one, #other) do
    if one[n] ~= other[n] then return false end
  end
  return true
end
local function index(kind, id, old, new)
  local keys, before = new and new[3] or {}, old and old[3] or {}
  if same(keys, before) then
    if old and new and old[4] ~= new[4] then
      for _, key in ipairs(keys) do add('i' .. kind .. ':' .. key, 0, new[4] - old[4]) end
    end
    return
  end
  local had, has, arrival = {}, {}, nil
  for _, key in ipairs(before) do had[key] = true end
  for _, key in ipairs(keys) do has[key] = true end
  for _, key in ipairs(before) do
    local scope = kind .. ':' .. key
    if not has[key] then
      add('i' .. scope, -1, -old[4])
      redis.call('ZREM', base .. ':i:' .. scope, id)
    elseif old[4] ~= new[4] then
      add('i' .. scope, 0, new[4] - old[4])
    end
  end
  for _, key in ipairs(keys) do
    if not had[key] then
      local scope = kind .. ':' .. key
      arrival = arrival or redis.call('INCR', base .. ':arrivals')
      add('i' .. scope, 1, new[4])
      redis.call('ZADD', base .. ':i:' .. scope, arrival, id)
    end
  end
end
local function apply(changes)
  for _, c in ipairs(changes) do
    if c[1] ~= 'A' then
      local kind, id, old, new = c[2], c[3], c.old, nil
      if c[1] == 'P' then
        new = cmsgpack.unpack(c[5])
        redis.call('HSET', facts_of .. kind, id, c[5])
        redis.call('HSET', base .. ':r:' .. kind, id, c[6])
        if not old then redis.call('ZADD', base .. ':o:' .. kind, 0, id) end
      else
        redis.call('HDEL', facts_of .. kind, id)
        redis.call('HDEL', base .. ':r:' .. kind, id)
        redis.call('ZREM', base .. ':o:' .. kind, id)
      end
      if (old and old[7]) or (new and new[7]) then
        waits = redis.call('HSETNX', changed_key, kind .. ':' .. id, c.raw or '') == 1 or waits
      end
      index(kind, id, old, new)
      local held, holds = old and old[5], new and new[5]
      if held ~= holds then
        local number, size = (holds and 1 or 0) - (held and 1 or 0), (holds or 0) - (held or 0)
        add('m' .. partition, number, size)
        add('t', number, size)
      end
      add('c', (new and 1 or 0) - (old and 1 or 0), (new and new[8] or 0) - (old and old[8] or 0))
      local ended, ends = old and old[9], new and new[9]
      if ends and ends ~= ended then
        redis.call('ZADD', base .. ':e:' .. kind, ends, id)
      elseif ended and not ends then
        redis.call('ZREM', base .. ':e:' .. kind, id)
      end
      local was, is = old and old[10], new and new[10]
      if was or is then
        local ready, later = base .. ':q:' .. partition, base .. ':l:' .. partition
        if is and new[12] then
          redis.call('ZADD', ready, is, id)
        elseif is then
          redis.call('ZADD', later, new[11], id)
        end
        if was and not (is and new[12]) then redis.call('ZREM', ready, id) end
        if was and (new == nil or not is or new[12]) then redis.call('ZREM', later, id) end
      end
    end
  end
end
local result = 0
while at <= #ARGV do
  local changes = parsed()
  local n = conflict(changes)
  if n then
    result = seen + n
    break
  end
  apply(changes)
  seen = seen + #changes
end
store()
if waits and redis.call('HLEN', changed_key) >= 128 then settle() end
return result
"""
)

# A server without memory refuses the first before it begins. The second may only replace and drop records: so a full
# server can still be emptied.
CREATE = _script("", _COMMIT)
CHANGE = _script("allow-oom", _COMMIT)

# ARGV: scopes. Returns their counts, those of origins too.
FROM = _script(
    "allow-oom",
    _COUNTS
    + """
settle()
return redis.call('HMGET', counts_key, unpack(ARGV))
""",
)

# ARGV: the mailbox, the time, how many, and a scope ("" for none): if it counts records, '-inf' alone is returned.
# Otherwise returns when the next delivery is due if none is, then the bytes of those that are. Deliveries whose time
# has come take their places by sort key first. Of 512 it returns MORE alone: others may have their turn, and then it is
# asked again.
MORE = b"more"
DUE = _script(
    "allow-oom",
    """
local base, mailbox = KEYS[1], ARGV[1]
if ARGV[4] ~= '' and redis.call('HEXISTS', base .. ':n', ARGV[4]) == 1 then return {'-inf'} end
local ready, later = base .. ':q:' .. mailbox, base .. ':l:' .. mailbox
local lapsed = redis.call('ZRANGEBYSCORE', later, '-inf', ARGV[2], 'LIMIT', 0, 512)
for _, id in ipairs(lapsed) do
  local facts = cmsgpack.unpack(redis.call('HGET', base .. ':f:delivery', id))
  redis.call('ZADD', ready, facts[10], id)
  redis.call('ZREM', later, id)
end
if #lapsed == 512 then return {'more'} end
local found = {false}
for _, id in ipairs(redis.call('ZRANGE', ready, 0, ARGV[3] - 1)) do
  found[#found + 1] = redis.call('HGET', base .. ':r:delivery', id)
end
if #found == 1 then
  found[1] = redis.call('ZRANGE', later, 0, 0, 'WITHSCORES')[2] or false
end
return found
""",
)

# ARGV: the mailbox. Returns when the next delivery is due.
NEXT_DUE = _script(
    "no-writes",
    """
local base, mailbox = KEYS[1], ARGV[1]
local first = redis.call('ZRANGE', base .. ':q:' .. mailbox, 0, 0)[1]
if first then
  local facts = cmsgpack.unpack(redis.call('HGET', base .. ':f:delivery', first))
  return string.format('%.17g', facts[11])
end
return redis.call('ZRANGE', base .. ':l:' .. mailbox, 0, 0, 'WITHSCORES')[2] or false
""",
)

# ARGV: the kind, then index keys. Returns the bytes of the first record under each, nil where there is none.
FIRST = _script(
    "no-writes",
    """
local base, kind, found = KEYS[1], ARGV[1], {}
for n = 2, #ARGV do
  local id = redis.call('ZRANGE', base .. ':i:' .. kind .. ':' .. ARGV[n], 0, 0)[1]
  found[n - 1] = id and redis.call('HGET', base .. ':r:' .. kind, id) or false
end
return found
""",
)

# ARGV: the kind, the index key, the number to start from, newest or oldest, and how many. Returns the number of the
# last record if there are more, else nil, then the bytes of the records.
PAGE = _script(
    "no-writes",
    """
local base, kind, limit = KEYS[1], ARGV[1], tonumber(ARGV[5])
local index = base .. ':i:' .. kind .. ':' .. ARGV[2]
local ids
if ARGV[4] == 'newest' then
  ids = redis.call('ZRANGE', index, ARGV[3], '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, limit + 1)
else
  ids = redis.call('ZRANGE', index, ARGV[3], '+inf', 'BYSCORE', 'LIMIT', 0, limit + 1)
end
local found = {false}
if ids[limit + 1] then found[1] = redis.call('ZSCORE', index, ids[limit]) end
for n = 1, math.min(limit, #ids) do found[n + 1] = redis.call('HGET', base .. ':r:' .. kind, ids[n]) end
return found
""",
)

# KEYS[1] is the key itself. ARGV: the relay and for how many seconds. Returns 1 if the relay has the key now.
TAKE = _script(
    "allow-oom",
    """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
""",
)

# KEYS[1] is the key itself. ARGV: the relay.
GIVE_UP = _script(
    "allow-oom",
    """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0
""",
)

# ARGV: the relay, for how many seconds it leads, how long a silence of all relays counts, the layout and the secret of
# the mesh as this relay has them, and 1 if it has a folder for contents. Returns 1 if it leads, for how many seconds no
# relay was there, the layout and the secret as they are by now, and 1 if they were missing. The relay that ends such a
# silence leads.
LEAD = _script(
    "allow-oom",
    """
local base, lead = KEYS[1], KEYS[1] .. ':lead'
local meta = base .. ':meta'
local missing = redis.call('HSETNX', meta, 'layout', ARGV[4]) + redis.call('HSETNX', meta, 'secret', ARGV[5])
local known = redis.call('HMGET', meta, 'layout', 'secret')
if known[2] == ARGV[5] and ARGV[6] == '1' then redis.call('HSETNX', meta, 'folder', 1) end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local away = now - (redis.call('HGET', meta, 'alive') or now)
redis.call('HSET', meta, 'alive', now)
if away < tonumber(ARGV[3]) then away = 0 end
local holder = redis.call('GET', lead)
if holder and holder ~= ARGV[1] and away == 0 then
  return {0, '0', known[1], known[2], missing}
end
redis.call('SET', lead, ARGV[1], 'EX', ARGV[2])
return {1, string.format('%.17g', away), known[1], known[2], missing}
""",
)

# ARGV: the name of the lease, the token held so far, the one of a new term, and for how many milliseconds. Returns the
# token that counts from now on, nil while another relay has the lease.
LEASE = _script(
    "allow-oom",
    """
local base, key, token = KEYS[1], KEYS[1] .. ':lease:' .. ARGV[1], ARGV[2]
local holder = redis.call('GET', key)
if holder and holder ~= token and holder ~= ARGV[3] then return false end
if token == '' or redis.call('HGET', base .. ':meta', 'lease:' .. ARGV[1]) ~= token then
  token = ARGV[3]
  redis.call('HSET', base .. ':meta', 'lease:' .. ARGV[1], token)
end
redis.call('SET', key, token, 'PX', ARGV[4])
return token
""",
)

# ARGV: the SHA-256 and where it will lie (server, folder). Returns 1 while another relay removes that content.
KEEP_CONTENT = _script(
    "",
    """
local base, digest = KEYS[1], ARGV[1]
if redis.call('EXISTS', base .. ':going:' .. digest) == 1 then return 1 end
redis.call('ZADD', base .. ':contents', redis.call('TIME')[1], digest)
if ARGV[2] == 'folder' then redis.call('SADD', base .. ':folders', digest) end
return 0
""",
)

# ARGV: the SHA-256, and for how many seconds a content is kept in any case. Returns where it lay, nil if it stays.
FORGET_CONTENT = _script(
    "allow-oom",
    """
local base, digest = KEYS[1], ARGV[1]
local came = redis.call('ZSCORE', base .. ':contents', digest)
if not came or redis.call('TIME')[1] - came < tonumber(ARGV[2]) then return false end
redis.call('ZREM', base .. ':contents', digest)
if redis.call('SREM', base .. ':folders', digest) == 1 then
  redis.call('SET', base .. ':going:' .. digest, 1, 'EX', 60)
  return 'folder'
end
redis.call('DEL', base .. ':content:' .. digest)
return 'server'
""",
)
