-- An entry as inspect and returned tell it; what is longer than any transition writes is left out.
local LONGEST = 32768

local function describe(uid)
  local entry = fields(uid, 'attempt', 'state', 'namespace', 'name', 'since', 'worker', 'claimed', 'reason', 'failure')
  if not entry[1] or #uid > 253 then return false end
  for i = 1, 9 do
    if not entry[i] or #entry[i] > LONGEST then entry[i] = '' end
  end
  return {uid, unpack(entry)}
end
