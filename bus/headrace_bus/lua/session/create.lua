#!lua
-- include: keys sessions
-- ARGV: id, request, system message or '', ttl ms, most sessions, most bytes of all
-- Reply: 1 made, also when this request has made it before; 0 one of that id is there; -1 too many; -2 no room
-- Without allow-oom: at maxmemory none begins.
local id, request, system, ttl = ARGV[1], ARGV[2], ARGV[3], limited(ARGV[4], TTL_MAX_MS)
local now = now_ms()
forget_ended(now)
local made_by = redis.call('HGET', session_key(id), 'request')
if made_by then return made_by == request and 1 or 0 end
local ids = ids_at(now)
if #ids >= limited(ARGV[5], SESSIONS_MAX) then return -1 end
local size = #system + FIELD_BYTES
if bytes_beside(ids, id) + size > tonumber(ARGV[6]) then return -2 end
redis.call('HSET', session_key(id), 'request', request, 'version', 0, 'first', 1, 'last', 0, 'bytes', size, 'system', system, 'made', now)
keep(id, size, now, ttl)
return 1
