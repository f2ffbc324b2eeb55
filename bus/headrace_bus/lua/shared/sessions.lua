-- Chats that go on, of one identity in one namespace. Keys after the prefix `headrace:session:{digest}:`, written by facades alone.
-- A runner may call every script with its own model's prefix.
if string.sub(P, 1, 18) ~= 'headrace:session:{' then return redis.error_reply('ERR no prefix of sessions') end
-- Whatever is asked for: a reply holds a session, a list holds them all.
local SESSIONS_MAX, EXCHANGES_MAX, SESSION_BYTES_MAX, TTL_MAX_MS = 1000, 1000, 1024 * 1024, 31 * 24 * 3600000
-- What Redis takes for a field beside its value, about.
local FIELD_BYTES = 128
local ENDS, SIZES = P .. 'ends', P .. 'sizes'

local function session_key(id) return P .. 'of:' .. id end

-- Ids of those that have not ended; what is told of others is forgotten by `forget_ended`.
local function ids_at(now)
  return redis.call('ZRANGEBYSCORE', ENDS, now + 1, '+inf', 'LIMIT', 0, SESSIONS_MAX)
end

local function forget_ended(now)
  local ended = redis.call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, SESSIONS_MAX)
  for _, id in ipairs(ended) do
    redis.call('ZREM', ENDS, id)
    redis.call('HDEL', SIZES, id)
  end
end

-- Bytes of all sessions but one.
local function bytes_beside(ids, besides)
  local sum = 0
  if #ids == 0 then return sum end
  for i, size in ipairs(redis.call('HMGET', SIZES, unpack(ids))) do
    if ids[i] ~= besides then sum = sum + number(size, 0) end
  end
  return sum
end

local function keep(id, size, now, ttl)
  redis.call('ZADD', ENDS, now + ttl, id)
  redis.call('HSET', SIZES, id, string.format('%.0f', size))
  redis.call('PEXPIRE', session_key(id), ttl)
  -- Each lasts as long as the session that ends last, or longer.
  for _, key in ipairs({ENDS, SIZES}) do
    if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
  end
end
