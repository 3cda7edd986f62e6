local roundrobin = require("resty.roundrobin")

local function counts(rr, n)
  local out = {}
  for _ = 1, n do
    local node = rr:find()
    out[node] = (out[node] or 0) + 1
  end
  return out
end

local rr = roundrobin:new({ a = 1, b = 1, c = 1 })
for _ = 1, 5 do -- each round has everybody once
  local c = counts(rr, 3)
  assert(c.a == 1 and c.b == 1 and c.c == 1)
end

rr:reinit({ a = 3, b = 1 })
local c = counts(rr, 8)
assert(c.a == 6 and c.b == 2, c.a)
local run = 0 -- smooth: never more than three of a in a row, also over the ends of rounds
for _ = 1, 40 do
  run = rr:find() == "a" and run + 1 or 0
  assert(run <= 3)
end

rr:reinit({ a = 1, off = 0 })
assert(counts(rr, 4).a == 4)
assert(roundrobin:new({}):find() == nil)
