-- Calls under way, and the hash written back.
local SWEPT_MAX = 1000

local function save_gate(gate)
  local flat = {}
  for _, field in ipairs(NUMBERS) do
    table.insert(flat, field)
    -- So that what is read is what was written.
    table.insert(flat, string.format('%.17g', gate[field]))
  end
  for _, field in ipairs(TEXTS) do
    table.insert(flat, field)
    table.insert(flat, gate[field])
  end
  local done = redis.pcall('HSET', P .. 'gate', unpack(flat))
  if type(done) == 'table' and done.err then
    redis.call('UNLINK', P .. 'gate')
    redis.call('HSET', P .. 'gate', unpack(flat))
  end
  redis.call('PEXPIRE', P .. 'gate', GATE_TTL_MS)
end

-- Frees the places of calls whose leases ran out: their pods are gone. What they booked stays spent.
local function sweep_calls(now)
  if not readable(redis.pcall('ZCARD', CALLS)) then redis.call('UNLINK', CALLS) end
  if not readable(redis.pcall('HLEN', BOOKED)) then redis.call('UNLINK', BOOKED) end
  local gone = redis.call('ZRANGEBYSCORE', CALLS, '-inf', now, 'LIMIT', 0, SWEPT_MAX)
  if #gone == 0 then return end
  redis.call('ZREM', CALLS, unpack(gone))
  redis.call('HDEL', BOOKED, unpack(gone))
end

local function keep_calls()
  redis.call('PEXPIRE', CALLS, GATE_TTL_MS)
  redis.call('PEXPIRE', BOOKED, GATE_TTL_MS)
end

-- Ends a call: what it had booked and when it was admitted, nil for a call that is not under way any more.
local function end_call(id)
  local booked = redis.call('HGET', BOOKED, id)
  redis.call('ZREM', CALLS, id)
  redis.call('HDEL', BOOKED, id)
  if not booked or #booked > 40 then return nil end
  local tokens, admitted = string.match(booked, '^(%d+) (%d+)$')
  return number(tokens), number(admitted)
end
