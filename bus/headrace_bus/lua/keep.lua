#!lua
-- include: keys
-- ARGV: uid, result, ttl_ms, limit of results kept
-- Reply: 1 when it is kept, else 0. Without allow-oom: at maxmemory nothing is kept. No request id: doing it again changes nothing.
local ttl = tonumber(ARGV[3])
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', P .. 'results', '-inf', now)
if redis.call('ZCARD', P .. 'results') >= limited(ARGV[4], LIMIT_MAX) then return 0 end
redis.call('SET', result_key(ARGV[1]), ARGV[2], 'PX', ttl)
redis.call('ZADD', P .. 'results', now + ttl, ARGV[1])
if redis.call('PTTL', P .. 'results') < ttl then redis.call('PEXPIRE', P .. 'results', ttl) end
return 1
