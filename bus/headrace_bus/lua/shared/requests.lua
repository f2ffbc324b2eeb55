-- Replies by request id, for a caller whose reply got lost. Two buckets by time instead of a key
-- per request: a reply is kept for at least BUCKET_MS of the server's time, and both can be named by purge.
local BUCKET_MS = 30000
-- The longest is that of a claim.
local DELIVERIES_MAX = 64
local REPLAY_MAX = DELIVERIES_MAX * (NAME_MAX + 1)

local function bucket_key(now, back)
  return P .. 'requests:' .. string.format('%.0f', math.floor(now / BUCKET_MS) - back)
end

local function recall(request, now)
  local reply = redis.call('HGET', bucket_key(now, 0), request) or redis.call('HGET', bucket_key(now, 1), request)
  return reply and #reply <= REPLAY_MAX and reply
end

local function remember(request, now, reply)
  local key = bucket_key(now, 0)
  redis.call('HSET', key, request, reply)
  if redis.call('HLEN', key) == 1 then redis.call('PEXPIRE', key, 2 * BUCKET_MS) end
  return reply
end
