-- The order as one claim goes through it: what is at the head of each class is read once, carried on here and written back
-- when another namespace is next or the claim ends. The bounds are those of ring.lua, at a fraction of its commands.
local turns, absent, virtual, taken = {}, {}, {}, {}
local calls_before = nil
local calls = 0
-- Of names in a ring that nothing stands behind.
local EMPTY_MAX = 256
local empty = 0
-- Whether a queue has members left at the end; others may have as well.
local waiting = false

-- What was taken leaves the queue; the namespace gets its next place in the ring, or leaves that.
local function end_turn(class)
  local turn = turns[class]
  turns[class] = nil
  if not turn or turn.at == 1 then return end
  redis.call('ZREM', queue_key(class, turn.namespace), unpack(turn.members, 1, turn.at - 1))
  redis.call('HSET', P .. 'clock', 'vtime:' .. class, string.format('%.17g', virtual[class]))
  -- Members that nobody can take are not counted: then more than were read stand in the queue.
  if turn.members[turn.at] or redis.call('EXISTS', queue_key(class, turn.namespace)) == 1 then
    redis.call('ZADD', ring_key(class), turn.start, turn.namespace)
  else
    leave_ring(class, turn.namespace, turn.start)
  end
  redis.call('ZREMRANGEBYSCORE', finish_key(class), '-inf', string.format('%.17g', virtual[class]))
end

-- The namespace whose turn it is, with at most `count` of its members and one more; nil when nothing of the class waits.
local function turn_of(class, count)
  while not turns[class] and not absent[class] do
    local slots = redis.call('ZRANGE', ring_key(class), 0, 1, 'WITHSCORES')
    local namespace, start = slots[1], number(slots[2], 0)
    if not namespace then
      absent[class] = true
    else
      local members = is_name(namespace) and redis.call('ZRANGE', queue_key(class, namespace), 0, count) or {}
      if members[1] then
        turns[class] = {namespace = namespace, start = start, members = members, at = 1, weight = weight_of(namespace),
          rival = slots[3] and number(slots[4], 0)}
      else
        leave_ring(class, namespace, start)
        empty = empty + 1
        absent[class] = empty >= EMPTY_MAX
      end
    end
  end
  return turns[class]
end

-- The class that is served next, nil when nothing waits.
local function next_class(calls_per_task, count)
  local call, task = turn_of('Call', count), turn_of('Task', count)
  if not call and not task then return nil end
  if not calls_before then
    calls_before = number(redis.call('HGET', P .. 'clock', 'calls'), 0)
    calls = calls_before
  end
  if call and task then return calls >= calls_per_task and 'Task' or 'Call' end
  return call and 'Call' or 'Task'
end

-- The member at the head was taken, at this cost.
local function advance(class, uid, cost)
  -- Counts only while both classes wait: otherwise there is nothing to share.
  if class == 'Task' then
    calls = 0
  elseif turns['Task'] then
    calls = calls + 1
  end
  local turn = turns[class]
  virtual[class] = turn.start
  table.insert(taken, uid)
  turn.start = turn.start + cost / turn.weight
  turn.at = turn.at + 1
  -- Of equal starts the ring decides.
  if not turn.members[turn.at] or (turn.rival and turn.start >= turn.rival) then end_turn(class) end
end

local function end_turns()
  for _, class in ipairs({'Call', 'Task'}) do
    local turn = turns[class]
    waiting = waiting or (turn ~= nil and turn.members[turn.at] ~= nil)
    end_turn(class)
  end
  if #taken > 0 then redis.call('ZREM', P .. 'queued', unpack(taken)) end
  if calls > 0 and calls ~= calls_before then
    redis.call('HSET', P .. 'clock', 'calls', calls)
  elseif calls == 0 and calls_before and calls_before ~= 0 then
    redis.call('HDEL', P .. 'clock', 'calls')
  end
end
