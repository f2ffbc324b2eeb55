#!lua flags=allow-oom
-- include: keys gate calls
-- ARGV: lease_ms, then the ids of calls under way
-- Reply: 1 or 0 per call; 0: it was not counted any more, and is again. No request id: doing it again renews again.
-- A call goes on whatever Redis has forgotten, so it takes its place again.
local now = now_ms()
local lease_ms = limited(ARGV[1] or '', CALL_LEASE_MAX_MS)
if #ARGV > 1 + CONCURRENCY_MAX then return redis.error_reply('ERR more calls than a model has') end
local kept, leases = {}, {}
sweep_calls(now)
if redis.call('ZCARD', CALLS) + #ARGV - 1 > 2 * CONCURRENCY_MAX then
  return redis.error_reply('ERR more calls than a model has')
end
for i = 2, #ARGV do
  if not is_name(ARGV[i]) then return redis.error_reply('ERR no call of that name') end
  table.insert(kept, redis.call('ZSCORE', CALLS, ARGV[i]) and 1 or 0)
  table.insert(leases, now + lease_ms)
  table.insert(leases, ARGV[i])
end
if #leases > 0 then
  redis.call('ZADD', CALLS, unpack(leases))
  keep_calls()
end
return kept
