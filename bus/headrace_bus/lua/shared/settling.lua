-- What the end of a call says about the next one.
local FIRST_PAUSE_MS, LAST_PAUSE_MS = 1000, 60000
-- Cut once per round trip: a call that was sent before the cut tells nothing of what came of it.
local CUT_EVERY_MS = 1000
-- Near the limit that was too much last time the next try costs so many times as many successes.
local CAREFUL = 16
local OPEN_MS, OPEN_UNAVAILABLE_MS = 5000, 30000
local UNSERVED = {RateLimited = true, Overloaded = true, Unavailable = true, Terminal = true}

local function answered(gate, id)
  if gate.shut == 0 then
    gate.failures = 0
  elseif gate.probe == id then
    gate.shut, gate.open, gate.failures, gate.reason, gate.message = 0, 0, 0, '', ''
  end
end

local function grow(gate, most)
  local step = 1 / gate.limit
  if gate.limit > gate.ceiling + 1 then
    gate.ceiling = 0
  elseif gate.limit >= gate.ceiling - 1 then
    step = step / CAREFUL
  end
  gate.limit = math.min(most, gate.limit + step)
end

local function slow_down(gate, now, admitted, call)
  local pause = call.retry_after
  if now - gate.cut >= CUT_EVERY_MS and (not admitted or admitted > gate.cut) then
    gate.ceiling, gate.limit, gate.cut = gate.limit, math.max(1, gate.limit / 2), now
    if pause < 0 then
      pause = math.min(LAST_PAUSE_MS, FIRST_PAUSE_MS * 2 ^ gate.pauses) * (1 + call.spread / 4)
      gate.pauses = math.min(PAUSES_MAX, gate.pauses + 1)
    end
  end
  if pause > 0 and now + pause > gate.pause then
    gate.pause, gate.pause_reason, gate.pause_message = now + math.floor(pause), call.reason, call.message
  end
end

local function open(gate, now, ms, call)
  gate.open = math.min(ms, OPEN_MAX_MS)
  gate.shut, gate.failures, gate.reason, gate.message = now + gate.open, 0, call.reason, call.message
end

-- A failure of a call that was sent before the breaker opened changes nothing, unless it is a graver one.
local function failed(gate, now, call, first_ms)
  if gate.probe == call.id and gate.shut > 0 then
    open(gate, now, math.max(first_ms, 2 * gate.open), call)
  elseif first_ms > gate.open then
    open(gate, now, first_ms, call)
  end
end

local function settle_call(gate, now, limits, call)
  local booked, admitted = end_call(call.id)
  local used = call.used
  if used < 0 and UNSERVED[call.fault] then used = 0 end
  if booked and used >= 0 and limits.tokens > 0 then
    gate.tokens = math.max(0, math.min(gate.tokens + cost_ms(used - booked, limits.tokens), now + DEBT_MAX_MS))
  end
  if call.fault == 'RateLimited' or call.fault == 'Overloaded' then
    slow_down(gate, now, admitted, call)
  elseif call.fault == 'Unavailable' then
    failed(gate, now, call, OPEN_UNAVAILABLE_MS)
  elseif call.fault == 'Transient' then
    if gate.shut == 0 then gate.failures = gate.failures + 1 end
    if gate.shut > 0 or gate.failures >= FAILURES_MAX then failed(gate, now, call, OPEN_MS) end
  elseif call.fault == 'Terminal' then
    -- Refused, but answered.
    answered(gate, call.id)
  elseif call.reason == 'Changed' then
    -- Whoever had to act may have: the next call finds out, at once.
    if gate.shut > now then gate.shut = now end
  elseif call.reason == '' then
    answered(gate, call.id)
    if admitted and admitted > gate.cut then gate.pauses = 0 end
    grow(gate, limits.most)
  end
  if gate.probe == call.id then gate.probe = '' end
end
