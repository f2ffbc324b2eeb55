#!lua flags=allow-oom
-- include: keys wake
-- ARGV: worker, report, ttl_ms
-- No request id: the same report twice is one report. allow-oom: bounded per worker, and a runner must not look dead at maxmemory.
local worker, ttl = ARGV[1], tonumber(ARGV[3])
local now = now_ms()
local changed = redis.call('GET', report_key(worker)) ~= ARGV[2]
redis.call('SET', report_key(worker), ARGV[2], 'PX', ttl)
redis.call('ZREMRANGEBYSCORE', P .. 'workers', '-inf', now)
redis.call('ZADD', P .. 'workers', now + ttl, worker)
if redis.call('PTTL', P .. 'workers') < ttl then redis.call('PEXPIRE', P .. 'workers', ttl) end
if changed then wake_operator() end
return changed and 1 or 0
