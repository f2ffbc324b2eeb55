-- The pulse: when somebody was last served on this model while leases were held. Who renews does so every few seconds and
-- the operator reaps every second, so one dead worker leaves no gap in it. A gap says that the server was away, or that
-- its clock was set forward: then nobody could renew, and no lease ends before one more lease has gone by.
local SILENCE_MS = 5000
local WRITE_EVERY_MS = 500
local LEASE_MAX_MS = 3600000

-- `lease_ms` is what the caller asks for, nil when it asks for none. Returns the time before which no lease ends.
local function pulse(now, lease_ms)
  local seen = redis.call('HMGET', P .. 'pulse', 'at', 'lease', 'grace')
  local at, lease, grace = number(seen[1], now), lease_ms or number(seen[2], 0), number(seen[3], 0)
  lease = math.max(0, math.min(lease, LEASE_MAX_MS))
  local silent = now - at > SILENCE_MS
  -- A clock set back must not stretch an old grace.
  grace = silent and now + lease or math.min(grace, now + LEASE_MAX_MS)
  if silent or not seen[1] or math.abs(now - at) >= WRITE_EVERY_MS or (lease_ms and tostring(lease_ms) ~= seen[2]) then
    redis.call('HSET', P .. 'pulse', 'at', now, 'lease', lease, 'grace', grace)
  end
  return grace
end
