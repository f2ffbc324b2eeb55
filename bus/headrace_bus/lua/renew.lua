#!lua flags=allow-oom
-- include: keys leases
-- ARGV: lease_ms, then uid, attempt, nonce of every token
-- Reply: 1 or 0 (lost) per token. No request id: doing it again renews again, nothing else.
local now = now_ms()
local kept = {}
for i = 2, #ARGV, 3 do
  if holds(ARGV[i], ARGV[i + 1], ARGV[i + 2], now) then
    redis.call('ZADD', P .. 'leases', 'XX', now + tonumber(ARGV[1]), ARGV[i])
    table.insert(kept, 1)
  else
    table.insert(kept, 0)
  end
end
return kept
