local chash = require("resty.chash")

local function keys_by_node(ring, n)
  local counts, of = {}, {}
  for i = 1, n do
    local node = ring:find("key" .. i)
    counts[node] = (counts[node] or 0) + 1
    of[i] = node
  end
  return counts, of
end

local N = 20000
local nodes = { ["10.0.0.1:80"] = 1, ["10.0.0.2:80"] = 1, ["10.0.0.3:80"] = 1, ["10.0.0.4:80"] = 1 }
local ring = chash:new(nodes)
local counts, before = keys_by_node(ring, N)
for node in pairs(nodes) do
  local share = (counts[node] or 0) / N
  assert(share > 0.15 and share < 0.35, node .. " has " .. share .. " of the keys")
end

-- The same nodes listed in another order give the same ring.
local other = {}
for _, n in ipairs({ 4, 2, 1, 3 }) do
  other["10.0.0." .. n .. ":80"] = 1
end
local _, again = keys_by_node(chash:new(other), N)
for i = 1, N do
  assert(before[i] == again[i])
end

-- Without one node, only its keys move.
nodes["10.0.0.3:80"] = nil
ring:reinit(nodes)
local _, after = keys_by_node(ring, N)
for i = 1, N do
  assert(after[i] ~= "10.0.0.3:80")
  assert(before[i] == "10.0.0.3:80" or before[i] == after[i], "a key of " .. before[i] .. " moved to " .. after[i])
end

-- Weight is a share.
counts = keys_by_node(chash:new({ a = 3, b = 1 }), N)
assert(counts.a / counts.b > 2 and counts.a / counts.b < 4.5, counts.a / counts.b)

-- next goes round all the nodes.
local seen, node, index = {}, ring:find("some key")
for _ = 1, 3 * 160 do
  seen[node] = true
  node, index = ring:next(index)
end
for n in pairs(nodes) do
  assert(seen[n], n .. " was not met")
end

assert(chash:new({}):find("x") == nil)
assert(chash:new({}):next(1) == nil)
assert(chash:new({ a = 1 }):find(nil) == "a") -- a variable without a value
assert(chash:new({ a = 1 }):find(42) == "a")
