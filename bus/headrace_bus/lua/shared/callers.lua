-- A call has no object: its entry names the reader that waits for it, in whose process all that must not be lost is.
local READER_RECORDS, FAILURE_MOST = 512, 16384

local function waiter_key(reader) return P .. 'waiter:' .. reader end

local function waits(reader)
  return is_name(reader) and redis.call('EXISTS', waiter_key(reader)) == 1
end

-- Its reader decides what follows; nothing is left here.
local function tell_reader(uid, now, reader, attempt, told, reason, failure)
  if #failure > FAILURE_MOST then failure = '' end
  local event = cjson.encode({attempt = attempt_number(attempt), returned = reason, failure = failure})
  told = math.floor(number(told, 0))
  local before = told > 0 and id_of(told) or '0-0'
  local id = id_of((told > 0 and told or now * BYTES_PER_MS) + #event)
  append(replay_key(uid), REPLAY_EVENTS, id, 'event', event)
  redis.call('PEXPIRE', replay_key(uid), REPLAY_MS)
  append(tokens_key(reader), READER_RECORDS, '*', uid, id .. ' ' .. before .. ' ' .. event)
  redis.call('PEXPIRE', tokens_key(reader), TOKENS_MS)
  forget(uid)
end
