#!lua
-- include: keys
-- ARGV: digest, value, ttl_ms, limit of values kept
-- Reply: 1. Without allow-oom: at maxmemory nothing is kept. No request id: doing it again changes nothing.
if not is_name(ARGV[1]) then return 0 end
local index, ttl, most = P .. 'cached', tonumber(ARGV[3]), limited(ARGV[4], 10000)
local now = now_ms()
if readable(redis.pcall('ZCARD', index)) == false then redis.call('UNLINK', index) end
-- The values end by themselves.
redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
local held = redis.call('ZCARD', index)
if held >= most and not redis.call('ZSCORE', index, ARGV[1]) then
  -- A limit that was lowered is reached over several calls.
  for _, digest in ipairs(redis.call('ZRANGE', index, 0, math.min(held - most, 99))) do
    redis.call('UNLINK', cached_key(digest))
    redis.call('ZREM', index, digest)
  end
end
redis.call('SET', cached_key(ARGV[1]), ARGV[2], 'PX', ttl)
redis.call('ZADD', index, now + ttl, ARGV[1])
if redis.call('PTTL', index) < ttl then redis.call('PEXPIRE', index, ttl) end
return 1
