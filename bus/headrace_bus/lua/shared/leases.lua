-- Leases: who holds one, and how a delivery without a result comes back.

-- A lease that ran out is its holder's until a sweep has taken it away: nobody else can have got the work before.
-- Also tells when it was claimed.
local function holds(uid, attempt, nonce)
  local entry = fields(uid, 'state', 'attempt', 'nonce', 'claimed')
  if entry[1] ~= 'Leased' or entry[2] ~= attempt or entry[3] ~= nonce then return false end
  return redis.call('ZSCORE', P .. 'leases', uid) ~= false, entry[4]
end

-- The envelope goes at once: another attempt comes with its own.
local function to_returned(uid, now, reason, failure)
  redis.call('ZREM', P .. 'leases', uid)
  redis.call('UNLINK', envelope_key(uid))
  redis.call('HDEL', entry_key(uid), 'nonce')
  redis.call('HSET', entry_key(uid), 'state', 'Returned', 'since', now, 'reason', reason, 'failure', failure)
  redis.call('ZADD', P .. 'returned', now, uid)
end
