#!lua flags=allow-oom
-- include: keys requests leases entries service
-- ARGV: request, uid, attempt, nonce, ms for which the end is remembered
-- Reply: '1' or '0' (lost)
local request, uid, attempt = ARGV[1], ARGV[2], ARGV[3]
local now = now_ms()
local held, claimed = holds(uid, attempt, ARGV[4])
-- Whoever completed it holds it no more: only then can this be a repetition.
if not held then return recall(request, now) or '0' end

redis.call('ZREM', P .. 'leases', uid)
forget(uid)
served(now, claimed)
-- Tells a late enqueue of the same attempt that it is over.
local ttl = tonumber(ARGV[5])
for _, old in ipairs(redis.call('ZRANGEBYSCORE', P .. 'ended', '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('ZREM', P .. 'ended', old)
  redis.call('HDEL', P .. 'done', old)
end
redis.call('HSET', P .. 'done', uid, attempt)
redis.call('ZADD', P .. 'ended', now + ttl, uid)
redis.call('PEXPIRE', P .. 'done', ttl)
redis.call('PEXPIRE', P .. 'ended', ttl)
return remember(request, now, '1')
