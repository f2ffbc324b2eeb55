#!lua flags=allow-oom
-- include: keys requests leases entries
-- ARGV: request, uid, attempt, nonce, result ('' = none), result_ttl_ms
-- Reply: '1' or '0' (lost)
local request, uid, attempt = ARGV[1], ARGV[2], ARGV[3]
local now = now_ms()
local reply = recall(request, now)
if reply then return reply end
if not holds(uid, attempt, ARGV[4], now) then return '0' end

redis.call('ZREM', P .. 'leases', uid)
forget(uid)
-- Kept without a result too: its attempt tells a late enqueue of the same attempt that it is over.
local ttl = tonumber(ARGV[6])
redis.call('HSET', result_key(uid), 'attempt', attempt)
if ARGV[5] ~= '' then redis.call('HSET', result_key(uid), 'result', ARGV[5]) else redis.call('HDEL', result_key(uid), 'result') end
redis.call('PEXPIRE', result_key(uid), ttl)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', P .. 'results', '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('ZREM', P .. 'results', old)
end
redis.call('ZADD', P .. 'results', now + ttl, uid)
if redis.call('PTTL', P .. 'results') < ttl then redis.call('PEXPIRE', P .. 'results', ttl) end
return remember(request, now, '1')
