-- Leases: who holds one, and how a delivery without a result comes back.

local function leased_as(uid, attempt, nonce)
  local entry = fields(uid, 'state', 'attempt', 'nonce', 'claimed', 'reader')
  return entry[1] == 'Leased' and entry[2] == attempt and entry[3] == nonce, entry[4], entry[5]
end

-- A lease that ran out is its holder's until a sweep has taken it away: nobody else can have got the work before.
-- Also tells when it was claimed, and who waits for it if it is a call.
local function holds(uid, attempt, nonce)
  local named, claimed, reader = leased_as(uid, attempt, nonce)
  return named and redis.call('ZSCORE', P .. 'leases', uid) ~= false, claimed, reader
end

-- As `holds`, and the lease is over.
local function end_lease(uid, attempt, nonce)
  local named, claimed, reader = leased_as(uid, attempt, nonce)
  return named and redis.call('ZREM', P .. 'leases', uid) == 1, claimed, reader
end

-- The envelope goes at once: another attempt comes with its own.
local function to_returned(uid, now, reason, failure)
  redis.call('ZREM', P .. 'leases', uid)
  local entry = fields(uid, 'reader', 'attempt', 'told')
  if entry[1] and is_name(entry[1]) then return tell_reader(uid, now, entry[1], entry[2], entry[3], reason, failure) end
  redis.call('UNLINK', envelope_key(uid))
  redis.call('HDEL', entry_key(uid), 'nonce')
  redis.call('HSET', entry_key(uid), 'state', 'Returned', 'since', now, 'reason', reason, 'failure', failure)
  redis.call('ZADD', P .. 'returned', now, uid)
end
