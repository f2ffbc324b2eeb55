#!lua
-- include: keys sessions
-- ARGV: id, name of the exchange, version that was seen, exchange, system message or '' to leave it, ttl ms, most bytes of one, of all
-- Reply: {1 appended, also when it was before; 0 there is no such session; -1 no room, version, 1 when others came between}
-- An exchange is appended whatever the version is: who was faster is no reason to lose the other's. Oldest ones make room.
-- Without allow-oom: at maxmemory the answer is given and not kept.
local id, name, seen, exchange, system = ARGV[1], ARGV[2], number(ARGV[3], 0), ARGV[4], ARGV[5]
local ttl, most = limited(ARGV[6], TTL_MAX_MS), limited(ARGV[7], SESSION_BYTES_MAX)
local now, key = now_ms(), session_key(id)
forget_ended(now)
local kept = redis.call('HMGET', key, 'version', 'first', 'last', 'bytes', 'system')
if not kept[1] then return {0, 0, 0} end
local version, first, last, size = number(kept[1], 0), number(kept[2], 1), number(kept[3], 0), number(kept[4], 0)

-- A repetition after a lost reply comes within seconds.
for n = last, math.max(first, last - 15), -1 do
  if redis.call('HGET', key, 'n' .. n) == name then return {1, version, 0} end
end
local old_system = kept[5] or ''
if system == '' then system = old_system end
size = size + #system - #old_system + #exchange + FIELD_BYTES
local room = math.min(most, tonumber(ARGV[8]) - bytes_beside(ids_at(now), id))
local go = first
while go <= last and (size > room or last - go + 2 > EXCHANGES_MAX) do
  size = size - redis.call('HSTRLEN', key, 'e' .. go) - FIELD_BYTES
  go = go + 1
end
if size > room then return {-1, version, 0} end
for n = first, go - 1 do redis.call('HDEL', key, 'e' .. n, 'n' .. n) end
last = last + 1
redis.call('HSET', key, 'version', version + 1, 'first', go, 'last', last, 'bytes', size, 'system', system, 'e' .. last, exchange, 'n' .. last, name)
keep(id, size, now, ttl)
return {1, version + 1, version == seen and 0 or 1}
