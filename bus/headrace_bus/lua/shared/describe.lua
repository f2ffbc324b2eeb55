-- An entry as inspect and returned tell it.
local function describe(uid)
  local entry = redis.call('HMGET', entry_key(uid), 'attempt', 'state', 'namespace', 'name', 'since', 'worker', 'claimed',
    'reason', 'failure')
  if not entry[1] then return false end
  for i = 1, 9 do entry[i] = entry[i] or '' end
  return {uid, unpack(entry)}
end
