#!lua flags=allow-oom
-- include: keys forget streams callers leases pulse
-- ARGV: lease_ms, then uid, attempt, nonce of every token
-- Reply: 1 or 0 (lost) per token. No request id: doing it again renews again, nothing else.
local now = now_ms()
local lease_ms = tonumber(ARGV[1])
local kept = {}
if #ARGV > 1 + 3 * LIMIT_MAX then return redis.error_reply('ERR more tokens than anybody holds') end
for i = 2, #ARGV, 3 do
  local held, _, reader = holds(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if held and reader and not waits(reader) then
    -- Nobody waits for this call any more.
    redis.call('ZREM', P .. 'leases', ARGV[i])
    forget(ARGV[i])
    table.insert(kept, 0)
  elseif held then
    redis.call('ZADD', P .. 'leases', 'XX', now + lease_ms, ARGV[i])
    table.insert(kept, 1)
  else
    table.insert(kept, 0)
  end
end
if redis.call('EXISTS', P .. 'leases') == 1 then pulse(now, lease_ms) end
return kept
