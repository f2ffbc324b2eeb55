-- Requests and tokens per minute of one identity, as two buckets that hold a minute's worth each and fill evenly: a bucket is known by
-- the time at which it is full again. Keys after the prefix `headrace:rate:{identity}:`, written by facades alone.
local MINUTE_MS = 60000
-- Of debt: who has used an hour's worth waits for an hour and no longer.
local DEBT_MAX_MS = 60 * MINUTE_MS
local PER_MINUTE_MAX = 1000000000
-- A runner may call every script with its own model's prefix.
if string.sub(P, 1, 15) ~= 'headrace:rate:{' then return redis.error_reply('ERR no prefix of rates') end

local function per_minute(text)
  return math.floor(math.min(math.max(number(text, 0), 0), PER_MINUTE_MAX))
end

local function full_at(now)
  local kept = redis.call('HMGET', P .. 'full', 'requests', 'tokens')
  local function bounded(text) return math.min(math.max(number(text, now), now), now + DEBT_MAX_MS) end
  return {requests = bounded(kept[1]), tokens = bounded(kept[2])}
end

-- How long until `count` may be taken.
local function wait_ms(full, now, count, rate)
  if rate == 0 then return 0 end
  return math.max(0, full + count * MINUTE_MS / rate - MINUTE_MS - now)
end

local function spend(full, now, count, rate)
  if rate == 0 then return full end
  return math.min(full + count * MINUTE_MS / rate, now + DEBT_MAX_MS)
end

local function save_full(full, now)
  local ends = math.max(full.requests, full.tokens)
  redis.call('HSET', P .. 'full', 'requests', string.format('%.0f', full.requests), 'tokens', string.format('%.0f', full.tokens))
  redis.call('PEXPIRE', P .. 'full', math.ceil(math.max(ends - now, 1)))
end
