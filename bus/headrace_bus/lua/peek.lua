#!lua flags=no-writes
-- include: keys
-- Reply: {1 when work is queued, milliseconds until a lease or delay is due or -1}
local now = now_ms()
local grace = number(redis.call('HGET', P .. 'pulse', 'grace'), 0)
local due = -1
for _, key in ipairs({'delayed', 'leases'}) do
  local at = redis.call('ZRANGE', P .. key, 0, 0, 'WITHSCORES')[2]
  if at then
    at = number(at, now)
    -- No lease ends in its grace.
    if key == 'leases' then at = math.max(at, grace) end
    local left = math.max(0, at - now)
    if due < 0 or left < due then due = left end
  end
end
return {redis.call('EXISTS', P .. 'queued'), due}
