local function forget(uid)
  redis.call('UNLINK', entry_key(uid), envelope_key(uid))
  redis.call('HDEL', P .. 'index', uid)
  -- Calls stand in no index.
  if redis.call('EXISTS', P .. 'index', P .. 'queued', P .. 'leases') == 0 then redis.call('DEL', P .. 'seq', P .. 'clock', P .. 'pulse') end
end
