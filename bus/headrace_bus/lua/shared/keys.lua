-- Every key of a model is derived from KEYS[1], its prefix `headrace:{ns/name}:`: all share the
-- hash tag, so a script stays in one slot, and the caller's ACL pattern is checked at every access.
local P = KEYS[1]
local CHANNEL = 'headrace:wake:' .. string.match(P, '{(.*)}')

local function entry_key(uid) return P .. 'entry:' .. uid end
local function envelope_key(uid) return P .. 'envelope:' .. uid end
local function result_key(uid) return P .. 'result:' .. uid end
local function report_key(worker) return P .. 'report:' .. worker end
local function queue_key(class, namespace) return P .. 'queue:' .. class .. ':' .. namespace end
local function ring_key(class) return P .. 'ring:' .. class end
local function finish_key(class) return P .. 'finish:' .. class end

-- The only clock of the bus.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
