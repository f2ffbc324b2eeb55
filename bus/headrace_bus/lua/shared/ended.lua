-- Attempts that were completed a short while ago, each with the request that said so: a late enqueue of the attempt is told
-- that it is over, a repeated completion what the first one did. Two buckets by time, as requests.lua has them.
local ENDED_MS = 600000
local ENDED_MAX = 128

local function ended_key(now, back)
  return P .. 'done:' .. string.format('%.0f', math.floor(now / ENDED_MS) - back)
end

-- "<attempt> <request>", '' where nothing is remembered.
local function ended(uid, now)
  local text = redis.call('HGET', ended_key(now, 0), uid) or redis.call('HGET', ended_key(now, 1), uid)
  return text and #text <= ENDED_MAX and text or ''
end

local function note_end(uid, now, attempt, request)
  local key = ended_key(now, 0)
  redis.call('HSET', key, uid, attempt .. ' ' .. request)
  if redis.call('HLEN', key) == 1 then redis.call('PEXPIRE', key, 2 * ENDED_MS) end
end

-- Whether there was anything to forget.
local function forget_end(uid, now)
  return redis.call('HDEL', ended_key(now, 0), uid) + redis.call('HDEL', ended_key(now, 1), uid) > 0
end
