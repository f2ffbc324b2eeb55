#!lua flags=allow-oom
-- include: keys requests gate calls buckets admitting settling
-- ARGV: request, most calls at a time, requests per minute or 0, tokens per minute or 0, lease_ms, count of settlements, then
-- id, fault or '', reason, message, tokens used or -1, retry_after_ms or -1, spread (0…1) of each, then id, tokens of each call
-- Reply: {now_ms, how many of the calls were admitted, why the next was not or '', ms until it may be, room beside those that wait,
-- breaker, reason, message, ms until that may change, concurrency, calls under way}
-- Both in one: whoever has ended a call wants to send the next. A call's admission is known by its id, that settlements
-- were done by the request. allow-oom: bounded, and what is settled frees memory.
local CALLS_AT_ONCE, PARTS = 64, 7
local now = now_ms()
local limits = {
  most = limited(ARGV[2] or '', CONCURRENCY_MAX),
  requests = within(ARGV[3], 0, RATE_MAX, 0),
  tokens = within(ARGV[4], 0, RATE_MAX, 0),
}
local lease_ms = limited(ARGV[5] or '', CALL_LEASE_MAX_MS)
local settled = within(ARGV[6], 0, CALLS_AT_ONCE, 0)
local first_call = 7 + math.floor(settled) * PARTS
if #ARGV > first_call - 1 + 2 * CALLS_AT_ONCE or #ARGV < first_call - 1 or (#ARGV - first_call + 1) % 2 ~= 0 then
  return redis.error_reply('ERR not the calls of one turn')
end
for i = 7, first_call - 1, PARTS do
  if not is_name(ARGV[i]) then return redis.error_reply('ERR no call of that name') end
end
for i = first_call, #ARGV, 2 do
  if not is_name(ARGV[i]) then return redis.error_reply('ERR no call of that name') end
end

sweep_calls(now)
local gate = load_gate(now, limits.most)
if first_call > 7 and not recall(ARGV[1], now) then
  for i = 7, first_call - 1, PARTS do
    settle_call(gate, now, limits, {
      id = ARGV[i],
      fault = ARGV[i + 1],
      reason = bounded(ARGV[i + 2], NAME_MAX),
      message = bounded(ARGV[i + 3], MESSAGE_MAX),
      used = within(ARGV[i + 4], -1, TOKENS_MAX, -1),
      retry_after = within(ARGV[i + 5], -1, PAUSE_MAX_MS, -1),
      spread = within(ARGV[i + 6], 0, 1, 0),
    })
  end
  remember(ARGV[1], now, '1')
end
local admitted, left, reason, wait_ms = {}, {}, '', 0
for i = first_call, #ARGV, 2 do
  if reason == '' then
    reason, wait_ms = admit_call(gate, now, limits, ARGV[i], within(ARGV[i + 1], 0, TOKENS_MAX, 0), lease_ms)
  end
  if reason == '' then
    table.insert(admitted, ARGV[i])
  else
    table.insert(left, now + WAITING_MS)
    table.insert(left, ARGV[i])
  end
end
if #admitted > 0 then keep_calls() end
note_waiting(now, admitted, left)
save_gate(gate)
local under_way = redis.call('ZCARD', CALLS)
local room = room_of(gate, now, limits, under_way)
return {now, #admitted, reason, math.ceil(wait_ms), room, unpack(told(gate, now, under_way))}
