-- How long a delivery takes from claim to result: an exponentially weighted mean, of the first few a plain one.
local SERVICE_WEIGHT = 0.1

local function served(now, claimed)
  local took = math.max(0, now - number(claimed, now))
  local seen = readable(redis.pcall('HMGET', P .. 'service', 'mean_ms', 'count'))
  -- An estimate is not worth a completion.
  if not seen then redis.call('UNLINK', P .. 'service') end
  seen = seen or {}
  local count = math.max(0, number(seen[2], 0)) + 1
  local mean = number(seen[1], took)
  mean = mean + (took - mean) * math.max(SERVICE_WEIGHT, 1 / count)
  redis.call('HSET', P .. 'service', 'mean_ms', string.format('%.3f', mean), 'count', string.format('%.0f', count))
end
