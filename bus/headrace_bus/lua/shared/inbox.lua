-- Words to the worker that holds a lease: "<uid> <attempt> <nonce> <word>" in a list of its own.
local INBOX_MS = 60000
local INBOX_MAX = 256

-- The worker that was told, or false when nobody holds the entry.
local function tell_holder(uid, word, limit)
  local entry = fields(uid, 'state', 'attempt', 'nonce', 'worker')
  local nonce, worker = entry[3], entry[4]
  if entry[1] ~= 'Leased' or attempt_number(entry[2]) == 0 or not nonce or #nonce > 64 then return false end
  if not worker or #worker > 253 or not redis.call('ZSCORE', P .. 'leases', uid) then return false end
  local key, line = inbox_key(worker), uid .. ' ' .. entry[2] .. ' ' .. nonce .. ' ' .. word
  limit = limited(limit, INBOX_MAX)
  -- Shortened first: the search goes through all of it. What is told again stands there once. What is no list must keep nobody from removing an entry.
  local short = readable(redis.pcall('LTRIM', key, -limit, -1))
  if not short or not readable(redis.pcall('LREM', key, 0, line)) then redis.call('UNLINK', key) end
  redis.call('RPUSH', key, line)
  redis.call('LTRIM', key, -limit, -1)
  redis.call('PEXPIRE', key, INBOX_MS)
  return worker
end
