"""The Lua scripts, each one step of the server. ``KEYS[1]`` is the mesh in braces: the hash tag of all keys.

r:KIND            hash, the bytes of each record by its id
f:KIND            hash, the facts of each record (``clawlink.store.valkey.facts``)
o:KIND            sorted set, all ids by their bytes
i:KIND:KEY        sorted set, the ids under an index key by the number of their arrival
e:KIND            sorted set, ids by the time at which they end
q:MAILBOX         sorted set, pending deliveries that are due, by sort key
l:MAILBOX         sorted set, the other pending deliveries by the time at which they are due
n, b              hashes, counts of records and of bytes
arrivals          the last number of an arrival
content:SHA-256   a content of a file
contents          sorted set, the SHA-256 of all contents by the time at which they came last
folders           set, those of them that lie in the folder of --blobs
going:SHA-256     there while a relay removes that content from the folder
reading:FILE      the relay that hands out a file which only one may read
lead              the relay that looks after the records
lease:NAME        the token of the relay that has this lease
meta              hash: layout, secret, when a relay was there last (alive), the last token of each lease (lease:NAME)
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


# ARGV: the lease and the token of the fence ("" for none). Then for each partition its key and the number of its
# changes. For each change its letter (P put, D drop, A absent), kind, id and the version that must be stored (0 for
# none); for a put its facts and its bytes, too. The partitions commit in this order, up to a conflict. Returns 0, or
# the number of the change that conflicts, or -1 if another relay has the lease, or none.
FENCED = -1
_COMMIT = """
local base, partition = KEYS[1], nil
if ARGV[1] ~= '' and redis.call('GET', base .. ':lease:' .. ARGV[1]) ~= ARGV[2] then return -1 end
local at, seen = 3, 0
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
    local raw = redis.call('HGET', base .. ':f:' .. c[2], c[3])
    if c[1] == 'A' then
      if raw then return n end
    elseif raw then
      local old = cmsgpack.unpack(raw)
      if old[1] ~= c[4] or old[2] ~= partition then return n end
      c.old = old
    elseif c[4] ~= 0 then
      return n
    end
  end
end
local counts, bytes = {}, {}
local function add(scope, f, sign, size)
  counts[scope] = (counts[scope] or 0) + sign
  bytes[scope] = (bytes[scope] or 0) + size
  if f[7] then
    for x = 6, 7 do
      local part = scope .. f[x]
      counts[part] = (counts[part] or 0) + sign
      bytes[part] = (bytes[part] or 0) + size
    end
  end
end
local function count(kind, f, sign)
  for _, key in ipairs(f[3]) do add('i' .. kind .. ':' .. key, f, sign, sign * f[4]) end
  if f[5] then
    add('m' .. partition, f, sign, sign * f[5])
    add('t', f, sign, sign * f[5])
  end
  add('c', f, sign, sign * f[8])
end
local function recount(kind, old, new, had, has)
  if not old or not new or old[6] ~= new[6] or old[7] ~= new[7] then
    if new then count(kind, new, 1) end
    if old then count(kind, old, -1) end
    return
  end
  for key in pairs(had) do
    if not has[key] then
      add('i' .. kind .. ':' .. key, old, -1, -old[4])
    elseif old[4] ~= new[4] then
      add('i' .. kind .. ':' .. key, old, 0, new[4] - old[4])
    end
  end
  for key in pairs(has) do
    if not had[key] then add('i' .. kind .. ':' .. key, new, 1, new[4]) end
  end
  if old[5] ~= new[5] then
    local sign, size = (new[5] and 1 or 0) - (old[5] and 1 or 0), (new[5] or 0) - (old[5] or 0)
    add('m' .. partition, new, sign, size)
    add('t', new, sign, size)
  end
  if old[8] ~= new[8] then add('c', new, 0, new[8] - old[8]) end
end
local function apply(changes)
  for _, c in ipairs(changes) do
    if c[1] ~= 'A' then
      local kind, id, old, new = c[2], c[3], c.old, nil
      if c[1] == 'P' then
        new = cmsgpack.unpack(c[5])
        redis.call('HSET', base .. ':f:' .. kind, id, c[5])
        redis.call('HSET', base .. ':r:' .. kind, id, c[6])
        if not old then redis.call('ZADD', base .. ':o:' .. kind, 0, id) end
      else
        redis.call('HDEL', base .. ':f:' .. kind, id)
        redis.call('HDEL', base .. ':r:' .. kind, id)
        redis.call('ZREM', base .. ':o:' .. kind, id)
      end
      local had, has = {}, {}
      for _, key in ipairs(old and old[3] or {}) do had[key] = true end
      for _, key in ipairs(new and new[3] or {}) do has[key] = true end
      recount(kind, old, new, had, has)
      for key in pairs(had) do
        if not has[key] then redis.call('ZREM', base .. ':i:' .. kind .. ':' .. key, id) end
      end
      local arrival
      for _, key in ipairs(new and new[3] or {}) do
        if not had[key] then
          arrival = arrival or redis.call('INCR', base .. ':arrivals')
          redis.call('ZADD', base .. ':i:' .. kind .. ':' .. key, arrival, id)
        end
      end
      local ended, ends = old and old[9], new and new[9]
      if ends and ends ~= ended then
        redis.call('ZADD', base .. ':e:' .. kind, ends, id)
      elseif ended and not ends then
        redis.call('ZREM', base .. ':e:' .. kind, id)
      end
      local was, is = old and old[10], new and new[10]
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
local function changed(changes)
  local scopes = {}
  for scope, change in pairs(changes) do
    if change ~= 0 then scopes[#scopes + 1] = scope end
  end
  return scopes
end
local function store(name, changes, gone)
  local scopes, key = changed(changes), base .. name
  for from = 1, #scopes, 500 do
    local to = math.min(from + 499, #scopes)
    local had, words = redis.call('HMGET', key, unpack(scopes, from, to)), {}
    for n = from, to do
      local scope = scopes[n]
      local left = (had[n - from + 1] or 0) + changes[scope]
      if name == ':n' and left == 0 then
        gone[#gone + 1] = scope
        bytes[scope] = 0
      else
        words[#words + 1] = scope
        words[#words + 1] = string.format('%.0f', left)
      end
    end
    if #words > 0 then redis.call('HSET', key, unpack(words)) end
  end
end
local gone = {}
store(':n', counts, gone)
store(':b', bytes, gone)
for from = 1, #gone, 500 do
  local to = math.min(from + 499, #gone)
  redis.call('HDEL', base .. ':n', unpack(gone, from, to))
  redis.call('HDEL', base .. ':b', unpack(gone, from, to))
end
return result
"""

# A server without memory refuses the first before it begins. The second may only replace and drop records: so a full
# server can still be emptied.
CREATE = _script("", _COMMIT)
CHANGE = _script("allow-oom", _COMMIT)

# ARGV: the mailbox, the time, and how many. Returns when the next delivery is due if none is, then the bytes of those
# that are. Deliveries whose time has come take their places by sort key first. Of 512 it returns MORE alone: others may
# have their turn, and then it is asked again.
MORE = b"more"
DUE = _script(
    "allow-oom",
    """
local base, mailbox = KEYS[1], ARGV[1]
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

# ARGV: the relay, for how many seconds it leads, and how long a silence of all relays counts. Returns 1 if it leads,
# and for how many seconds no relay was there. The relay that ends such a silence leads.
LEAD = _script(
    "allow-oom",
    """
local base, lead = KEYS[1], KEYS[1] .. ':lead'
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local away = now - (redis.call('HGET', base .. ':meta', 'alive') or now)
redis.call('HSET', base .. ':meta', 'alive', now)
if away < tonumber(ARGV[3]) then away = 0 end
local holder = redis.call('GET', lead)
if holder and holder ~= ARGV[1] and away == 0 then return {0, '0'} end
redis.call('SET', lead, ARGV[1], 'EX', ARGV[2])
return {1, string.format('%.17g', away)}
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
