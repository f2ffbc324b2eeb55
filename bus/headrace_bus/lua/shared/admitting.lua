-- May a call be sent? In order: breaker, pause, concurrency, requests and tokens per minute.
-- Nobody knows when a call ends: so soon whoever waits for that looks again.
local PROBE_LOOK_MS, PLACE_LOOK_MS = 1000, 250
-- Half of the time for which a call may wait: claimed by several pods, not all come in their order.
local HORIZON_MS = 500
local WAITING_MS = 1000

local function probing(gate, now)
  return gate.probe ~= '' and math.max(0, number(redis.call('ZSCORE', CALLS, gate.probe), 0) - now) or 0
end

-- '' and 0 when it may. A call that is under way already is, whatever has become of the gate.
local function admit_call(gate, now, limits, id, tokens, lease_ms)
  if redis.call('ZSCORE', CALLS, id) then
    redis.call('ZADD', CALLS, now + lease_ms, id)
    return '', 0
  end
  local state = breaker(gate, now)
  if state == 'Open' then return 'CircuitOpen', gate.shut - now end
  local probe_ms = state == 'HalfOpen' and probing(gate, now) or 0
  if probe_ms > 0 then return 'CircuitOpen', math.min(probe_ms, PROBE_LOOK_MS) end
  if now < gate.pause then return gate.pause_reason ~= '' and gate.pause_reason or 'RateLimited', gate.pause - now end
  if redis.call('ZCARD', CALLS) + 1 > gate.limit then return 'Concurrency', PLACE_LOOK_MS end
  local request = limits.requests > 0 and cost_ms(1, limits.requests) or 0
  local token = limits.tokens > 0 and cost_ms(tokens, limits.tokens) or 0
  local request_wait = request > 0 and bucket_wait(gate.requests, now, request) or 0
  local token_wait = token > 0 and bucket_wait(gate.tokens, now, token) or 0
  if request_wait > 0 and request_wait >= token_wait then return 'RequestsPerMinute', request_wait end
  if token_wait > 0 then return 'TokensPerMinute', token_wait end
  if request > 0 then gate.requests = math.max(gate.requests, now) + request end
  if token > 0 then gate.tokens = math.min(math.max(gate.tokens, now) + token, now + DEBT_MAX_MS) end
  if state == 'HalfOpen' then gate.probe = id end
  redis.call('ZADD', CALLS, now + lease_ms, id)
  redis.call('HSET', BOOKED, id, string.format('%.0f %.0f', tokens, now))
  return '', 0
end

-- Who was not admitted waits, and takes up room: without that every pod would claim for all of it.
local function note_waiting(now, admitted, left)
  if not readable(redis.pcall('ZREMRANGEBYSCORE', WAITING, '-inf', now)) then redis.call('UNLINK', WAITING) end
  if #admitted > 0 then redis.call('ZREM', WAITING, unpack(admitted)) end
  if #left == 0 then return end
  redis.call('ZADD', WAITING, unpack(left))
  redis.call('PEXPIRE', WAITING, WAITING_MS)
end

-- So many more could be admitted soon, beside those that wait.
local function room_of(gate, now, limits, under_way)
  local horizon = now + HORIZON_MS
  local state = breaker(gate, now)
  if gate.shut > horizon or gate.pause > horizon then return 0 end
  local room = math.min(math.floor(gate.limit) - under_way, bucket_room(gate, now, limits, horizon))
  if state ~= 'Closed' then room = math.min(room, probing(gate, now) > 0 and 0 or 1) end
  return math.max(0, room - redis.call('ZCARD', WAITING))
end
