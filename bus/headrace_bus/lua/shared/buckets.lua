-- Requests and tokens per minute, as GCRA: what is admitted is spread evenly over the minute.
-- A fixed window, a sliding window and a bucket of N per minute all accept N evenly spread; only the last accepts more at
-- once. So the burst is small: it makes up for who asks a little late, and for no more. In any 60 s at most
-- 60 s * FILL + BURST_MS worth are admitted, which leaves 0.95 s worth for calls that are not equally long on their way.
local FILL = 0.98
local BURST_MS = 250

local function cost_ms(count, per_minute) return count * 60000 / (per_minute * FILL) end

-- How long until `cost` may be taken from a bucket that is full at `full`. What costs more than the whole bucket waits
-- for a full one, is admitted then, and those after it pay its debt: it is the provider's to say that it is too much,
-- and without that it would wait for ever.
local function bucket_wait(full, now, cost) return math.max(0, full - math.max(0, BURST_MS - cost) - now) end

-- How many calls may still be admitted until `horizon`; with tokens one at a time, as the next call's are not known here.
local function bucket_room(gate, now, limits, horizon)
  local room = CONCURRENCY_MAX
  if limits.requests > 0 then
    local each = cost_ms(1, limits.requests)
    local left = horizon + math.max(0, BURST_MS - each) - math.max(gate.requests, now)
    room = left < 0 and 0 or math.min(room, math.floor(left / each) + 1)
  end
  if limits.tokens > 0 then room = gate.tokens > horizon and 0 or math.min(room, 1) end
  return room
end
