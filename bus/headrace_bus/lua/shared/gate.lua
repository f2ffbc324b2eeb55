-- The gate of a remote model: what its provider has said, in one hash, and the calls under way with their leases.
local CALLS, BOOKED, WAITING = P .. 'calls', P .. 'booked', P .. 'waiting'
-- Nothing in it means anything after so long: no pause, no opening and no lease lasts as long.
local GATE_TTL_MS = 7200000
local CALL_LEASE_MAX_MS = 3600000
local CONCURRENCY_MAX = 1024
local RATE_MAX, TOKENS_MAX = 1000000000, 1000000000
local PAUSE_MAX_MS, OPEN_MAX_MS = 3600000, 300000
local PAUSES_MAX, FAILURES_MAX = 6, 5
-- A message is cut to characters by whoever writes it.
local MESSAGE_MAX = 1024
-- The longest that a bucket makes anybody wait; also what a clock set back cannot stretch.
local DEBT_MAX_MS = 3600000

local TEXTS = {'probe', 'reason', 'message', 'pause_reason', 'pause_message'}
local NUMBERS = {'requests', 'tokens', 'limit', 'ceiling', 'cut', 'pause', 'pauses', 'shut', 'open', 'failures'}

local function within(text, low, high, default)
  return math.max(low, math.min(number(text, default), high))
end

local function bounded(text, most)
  return text and string.sub(text, 1, most) or ''
end

-- `most` is the concurrency that the model's spec allows. The second value says whether there is a gate yet.
local function load_gate(now, most)
  local held = readable(redis.pcall('HMGET', P .. 'gate', unpack(NUMBERS))) or {}
  local text = readable(redis.pcall('HMGET', P .. 'gate', unpack(TEXTS))) or {}
  return {
    -- When each bucket is full again (GCRA's theoretical arrival time).
    requests = within(held[1], 0, now + DEBT_MAX_MS, 0),
    tokens = within(held[2], 0, now + DEBT_MAX_MS, 0),
    -- AIMD: calls at a time; the limit that was too much, 0 for none; when it was last cut.
    limit = within(held[3], 1, most, most),
    ceiling = within(held[4], 0, CONCURRENCY_MAX, 0),
    cut = within(held[5], 0, now, 0),
    -- Until when nothing is sent; how often in a row without the provider's own word for how long.
    pause = within(held[6], 0, now + PAUSE_MAX_MS, 0),
    pauses = within(held[7], 0, PAUSES_MAX, 0),
    -- The breaker: until when it is open, 0 while closed; for how long it was opened; transient failures in a row.
    shut = within(held[8], 0, now + OPEN_MAX_MS, 0),
    open = within(held[9], 0, OPEN_MAX_MS, 0),
    failures = within(held[10], 0, FAILURES_MAX, 0),
    probe = bounded(text[1], NAME_MAX),
    reason = bounded(text[2], NAME_MAX),
    message = bounded(text[3], MESSAGE_MAX),
    pause_reason = bounded(text[4], NAME_MAX),
    pause_message = bounded(text[5], MESSAGE_MAX),
  }, held[3] and true or false
end

local function breaker(gate, now)
  if gate.shut == 0 then return 'Closed' end
  return now < gate.shut and 'Open' or 'HalfOpen'
end

-- What people are told: {breaker, reason, message, ms until it may change, concurrency, calls under way}
local function told(gate, now, under_way)
  local state = breaker(gate, now)
  local reply = {state, '', '', 0, math.floor(gate.limit), under_way}
  if state ~= 'Closed' then
    reply[2], reply[3], reply[4] = gate.reason, gate.message, math.max(0, math.ceil(gate.shut - now))
  elseif gate.pause > now then
    reply[2], reply[3], reply[4] = gate.pause_reason, gate.pause_message, math.ceil(gate.pause - now)
  end
  return reply
end
