#!lua flags=allow-oom
-- include: keys
-- ARGV: worker, telemetry, ttl_ms
-- No request id: the same twice is the same. allow-oom: bounded per worker, and gone in seconds. Nobody is woken by it.
if not is_name(ARGV[1]) then return redis.error_reply('ERR no worker of that name') end
redis.call('SET', gpus_key(ARGV[1]), ARGV[2], 'PX', limited(ARGV[3], TELEMETRY_MAX_MS))
return 1
