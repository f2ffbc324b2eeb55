-- Events of calls: in the inboxes of their readers, and for replay.
-- An event's id counts the bytes of its call until its end, so that a replay is cut to its bound by id and none of its
-- values is read: they are whatever a holder of the model's password has put there.
local TOKENS_MS, REPLAY_MS, REPLAY_EVENTS = 60000, 600000, 8192
-- Where the count begins, per ms of the server's time: a later attempt goes on above what the one before has streamed.
local BYTES_PER_MS = 1000

local function replay_key(uid) return P .. 'replay:' .. uid end
local function tokens_key(reader) return P .. 'tokens:' .. reader end
local function id_of(bytes) return string.format('%.0f-0', bytes) end

-- What cannot be of our making goes, in the background.
local function append(key, most, id, ...)
  local held = readable(redis.pcall('XLEN', key))
  if not held or held > most then redis.call('UNLINK', key) end
  local done = redis.pcall('XADD', key, 'MAXLEN', most, id, ...)
  if type(done) == 'table' and done.err then
    redis.call('UNLINK', key)
    redis.call('XADD', key, id, ...)
  end
end
