-- What a namespace spent and has reserved. Keys after its prefix `headrace:budget:{namespace}:`, written by the operator
-- alone. All figures are integers below 2^53.
local FIGURE_MAX = 2^53 - 1
local EXPIRED_MAX = 100
local LINES_MAX = 4
-- A runner may call every script with its own model's prefix, and these ignore maxmemory: they are the operator's.
if string.sub(P, 1, 17) ~= 'headrace:budget:{' then return redis.error_reply('ERR no prefix of budgets') end

local function figure(text)
  return math.max(0, math.min(number(text, 0), FIGURE_MAX))
end

local function shown(value)
  return string.format('%.0f', figure(value))
end

-- A line is a window and a currency. Its sums are those of the window that began at `start`; `told` is what the quota's
-- status says of that window, which Redis may have forgotten: within a window a sum only grows.
local function opened(line, start, told_tokens, told_micros)
  local kept = redis.call('HMGET', P .. 'spent', line .. ':start', line .. ':tokens', line .. ':micros')
  local begun = number(kept[1], -1)
  local tokens, micros = figure(kept[2]), figure(kept[3])
  if begun < start then
    begun, tokens, micros = start, 0, 0
  end
  if begun == start then
    tokens, micros = math.max(tokens, figure(told_tokens)), math.max(micros, figure(told_micros))
  end
  return {line = line, start = begun, tokens = tokens, micros = micros, currency = string.match(line, '/(.*)$')}
end

local function keep(line)
  redis.call('HSET', P .. 'spent', line.line .. ':start', shown(line.start), line.line .. ':tokens', shown(line.tokens),
    line.line .. ':micros', shown(line.micros))
end

local function reserved(what)
  return figure(redis.call('HGET', P .. 'reserved', what))
end

local function change(what, by)
  redis.call('HSET', P .. 'reserved', what, shown(reserved(what) + by))
end

-- attempt, tokens, micros, currency of the reservation; nil where there is none.
local function reservation(uid)
  local text = redis.call('HGET', P .. 'held', uid)
  if not text then return nil end
  local attempt, tokens, micros, currency = string.match(text, '^(%d+) (%d+) (%d+) (%u*)$')
  if not attempt then return nil end
  return {attempt = tonumber(attempt), tokens = figure(tokens), micros = figure(micros), currency = currency}
end

local function hold(uid, attempt, tokens, micros, currency, ends_ms)
  redis.call('HSET', P .. 'held', uid, attempt .. ' ' .. shown(tokens) .. ' ' .. shown(micros) .. ' ' .. currency)
  redis.call('ZADD', P .. 'ends', ends_ms, uid)
  change('tokens', tokens)
  change(currency, micros)
end

local function let_go(uid, held)
  redis.call('HDEL', P .. 'held', uid)
  redis.call('ZREM', P .. 'ends', uid)
  if held then
    change('tokens', -held.tokens)
    change(held.currency, -held.micros)
  end
end

-- What nobody settled: its attempt cannot be under way any more.
local function expire(now)
  for _, uid in ipairs(redis.call('ZRANGEBYSCORE', P .. 'ends', '-inf', now, 'LIMIT', 0, EXPIRED_MAX)) do
    let_go(uid, reservation(uid))
  end
end
