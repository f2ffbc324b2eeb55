-- Every key of a model is derived from KEYS[1], its prefix `headrace:{ns/name}:`: all share the
-- hash tag, so a script stays in one slot, and the caller's ACL pattern is checked at every access.
local P = KEYS[1]
local CHANNEL = 'headrace:wake:' .. string.match(P, '{(.*)}')

local function entry_key(uid) return P .. 'entry:' .. uid end
local function envelope_key(uid) return P .. 'envelope:' .. uid end
local function result_key(uid) return P .. 'result:' .. uid end
local function cached_key(digest) return P .. 'cache:' .. digest end
local function parked_key(uid) return P .. 'parked:' .. uid end
local function inbox_key(worker) return P .. 'inbox:' .. worker end
local function report_key(worker) return P .. 'report:' .. worker end
local function gpus_key(worker) return P .. 'gpus:' .. worker end
local function queue_key(class, namespace) return P .. 'queue:' .. class .. ':' .. namespace end
local function ring_key(class) return P .. 'ring:' .. class end
local function finish_key(class) return P .. 'finish:' .. class end

-- Whoever may write the model's keys may write nonsense: what cannot be read counts as absent.
local ATTEMPT_MAX = 1000000000
local NAME_MAX = 253
-- A script that runs long stops the server for everybody, a reply above the server's bound ends the caller's connection.
local LIMIT_MAX = 1000
local REPLY_MAX = 4 * 1024 * 1024
local TELEMETRY_MAX_MS = 60000

-- What a caller asks for, from 1 to `most`: the caller may be anybody who has a model's password.
local function limited(text, most)
  local value = #text <= 20 and tonumber(text)
  if value and value >= 1 then return math.floor(math.min(value, most)) end
  return 1
end

local function is_name(text)
  return text and #text <= NAME_MAX
end

local function number(text, default)
  if type(text) == 'string' and #text > 32 then return default end
  local value = tonumber(text or default)
  if value and value > -2^53 and value < 2^53 then return value end
  return default
end

-- 0 where there is none.
local function attempt_number(text)
  if not text or #text > 10 then return 0 end
  local value = number(text, 0)
  if value >= 1 and value <= ATTEMPT_MAX then return value end
  return 0
end

-- A reply, or false when the key is of another type than the command is for.
local function readable(reply)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if string.find(reply.err, '^WRONGTYPE') then return false end
  return error(reply)
end

local function fields(uid, ...)
  if not is_name(uid) then return {} end
  return readable(redis.pcall('HMGET', entry_key(uid), ...)) or {}
end

-- The only clock of the bus.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
