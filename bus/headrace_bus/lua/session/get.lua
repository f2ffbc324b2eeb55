#!lua flags=no-writes
-- include: keys sessions
-- ARGV: id
-- Reply: nil, or {version, ms at which it was made, ms at which it ends, bytes, system message, exchange, exchange …}
local key = session_key(ARGV[1])
local ends = redis.call('ZSCORE', ENDS, ARGV[1])
local kept = redis.call('HMGET', key, 'version', 'made', 'bytes', 'system', 'first', 'last')
if not ends or not kept[1] then return false end
local reply = {kept[1], kept[2], ends, kept[3], kept[4]}
for n = number(kept[5], 1), number(kept[6], 0) do table.insert(reply, redis.call('HGET', key, 'e' .. n)) end
return reply
