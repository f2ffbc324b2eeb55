-- Replies by request id, for a caller whose reply got lost. Two buckets by time instead of a key
-- per request: a reply is kept for at least BUCKET_MS of the server's time, and both can be named by purge.
local BUCKET_MS = 30000
-- The longest is that of a claim.
local DELIVERIES_MAX = 64
local REPLAY_MAX = DELIVERIES_MAX * (NAME_MAX + 1)

local function bucket_key(now, back)
  return P .. 'requests:' .. string.format('%.0f', math.floor(now / BUCKET_MS) - back)
end

-- A field of the bucket that says that it has its TTL. No request is called so.
local TIMED = 'timed'
local timed = false

local function recall(request, now)
  local found = redis.call('HMGET', bucket_key(now, 0), request, TIMED)
  timed = found[2]
  local reply = found[1] or redis.call('HGET', bucket_key(now, 1), request)
  return reply and #reply <= REPLAY_MAX and reply
end

local function remember(request, now, reply)
  local key = bucket_key(now, 0)
  if timed then
    redis.call('HSET', key, request, reply)
  else
    redis.call('HSET', key, request, reply, TIMED, '1')
    redis.call('PEXPIRE', key, 2 * BUCKET_MS)
  end
  return reply
end
