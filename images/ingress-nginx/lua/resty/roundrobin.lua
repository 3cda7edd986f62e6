-- Weighted round robin, smooth: nodes of weights 3 and 1 come as a a b a, not a a a b.
-- Each instance starts anywhere, so that the workers of one nginx don't go in step.
--
--   local rr = roundrobin:new({ ["10.0.0.1:80"] = 1, ["10.0.0.2:80"] = 1 }) -- node = weight
--   local node = rr:find()                    -- nil when there are no nodes
--   rr:reinit(nodes)                          -- other nodes
local random = math.random

local _M = {}
local mt = { __index = _M }

function _M.new(_, nodes)
  local self = setmetatable({}, mt)
  self:reinit(nodes)
  return self
end

function _M.reinit(self, nodes)
  local list, total, equal, first = {}, 0, true, nil
  for id, weight in pairs(nodes) do
    if weight > 0 then
      first = first or weight
      equal = equal and weight == first
      total = total + weight
      list[#list + 1] = { id = id, weight = weight, credit = 0 }
    end
  end
  -- In any order: pairs has the same one in each worker.
  for i = #list, 2, -1 do
    local j = random(i)
    list[i], list[j] = list[j], list[i]
  end
  self.list, self.total, self.equal, self.last = list, total, equal, 0
end

function _M.find(self)
  local list = self.list
  if #list == 0 then
    return nil
  end
  if self.equal then
    self.last = self.last % #list + 1
    return list[self.last].id
  end
  -- Everybody earns their weight, the richest is chosen and pays for all.
  local best = list[1]
  for _, n in ipairs(list) do
    n.credit = n.credit + n.weight
    if n.credit > best.credit then
      best = n
    end
  end
  best.credit = best.credit - self.total
  return best.id
end

return _M
