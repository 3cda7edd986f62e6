-- Consistent hashing: every node has points on a ring of 2^32 places, and a key belongs to
-- the node of the next point at or after the key's place. When a node comes or goes, only
-- keys of its own points move. The ring depends on nothing but the nodes and their weights,
-- so all workers and all replicas agree.
--
--   local ring = chash:new({ ["10.0.0.1:80"] = 1, ["10.0.0.2:80"] = 2 }) -- node = weight
--   local node, index = ring:find("key")      -- nil when there are no nodes
--   node, index = ring:next(index)            -- of the point after that
--   ring:reinit(nodes)                        -- other nodes
local crc32 = ngx.crc32_long
local floor = math.floor
local sort = table.sort

local POINTS = 160 -- of a node of weight 1: loads are then within about a fifth of each other
-- A point is one number, place * NODES + the node's position, which a double holds exactly,
-- so that sorting needs no comparison in Lua.
local NODES = 2 ^ 20

local _M = {}
local mt = { __index = _M }

function _M.new(_, nodes)
  local self = setmetatable({}, mt)
  self:reinit(nodes)
  return self
end

function _M.reinit(self, nodes)
  local ids = {}
  for id in pairs(nodes) do
    ids[#ids + 1] = id
  end
  sort(ids)
  if #ids >= NODES then
    error("chash: too many nodes: " .. #ids)
  end
  local points = {}
  for position, id in ipairs(ids) do
    for i = 1, POINTS * nodes[id] do
      points[#points + 1] = crc32(id .. "#" .. i) * NODES + position
    end
  end
  sort(points)
  self.ids, self.points = ids, points
end

local function node(self, index)
  return self.ids[self.points[index] % NODES], index
end

function _M.find(self, key)
  local points = self.points
  local n = #points
  if n == 0 then
    return nil
  end
  -- The first point that is not below the key's place.
  local place = crc32(tostring(key)) * NODES
  local low, high = 1, n + 1
  while low < high do
    local middle = floor((low + high) / 2)
    if points[middle] < place then
      low = middle + 1
    else
      high = middle
    end
  end
  return node(self, low > n and 1 or low)
end

function _M.next(self, index)
  if #self.points == 0 then
    return nil
  end
  return node(self, index % #self.points + 1)
end

return _M
