-- Leases: who holds one, and how a delivery without a result comes back.

local function holds(uid, attempt, nonce, now)
  local entry = redis.call('HMGET', entry_key(uid), 'state', 'attempt', 'nonce')
  if entry[1] ~= 'Leased' or entry[2] ~= attempt or entry[3] ~= nonce then return false end
  local lease_until = redis.call('ZSCORE', P .. 'leases', uid)
  return lease_until and tonumber(lease_until) > now
end

-- The envelope goes at once: another attempt comes with its own.
local function to_returned(uid, now, reason, failure)
  redis.call('ZREM', P .. 'leases', uid)
  redis.call('UNLINK', envelope_key(uid))
  redis.call('HDEL', entry_key(uid), 'nonce')
  redis.call('HSET', entry_key(uid), 'state', 'Returned', 'since', now, 'reason', reason, 'failure', failure)
  redis.call('ZADD', P .. 'returned', now, uid)
end
