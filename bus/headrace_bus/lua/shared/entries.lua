-- Taking an entry out of whatever state it is in, or claims to be in.

local function detach(uid)
  local entry = fields(uid, 'class', 'namespace', 'member')
  if entry[3] and redis.call('ZSCORE', P .. 'queued', uid) then unqueue(uid, entry[1] or '', entry[2] or '', entry[3]) end
  redis.call('ZREM', P .. 'queued', uid)
  redis.call('ZREM', P .. 'delayed', uid)
  redis.call('ZREM', P .. 'leases', uid)
  redis.call('ZREM', P .. 'returned', uid)
  redis.call('ZREM', P .. 'parked', uid)
  redis.call('UNLINK', parked_key(uid))
end
