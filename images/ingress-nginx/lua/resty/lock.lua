-- A lock that the workers of one nginx share, kept in a shared dictionary. It is given up
-- by itself after exptime seconds, so a worker that dies holds nobody up.
--
--   local lock, err = resty_lock:new("dictionary", { timeout = 5, exptime = 30 }) -- seconds
--   local waited, err = lock:lock(key)        -- seconds; or nil and "timeout" or the dictionary's error
--   local ok, err = lock:unlock()             -- 1; or nil and "unlocked"
--
-- With timeout 0 it never waits, and can be used where nginx allows no waiting.
local sleep = ngx.sleep
local min = math.min

local _M = {}
local mt = { __index = _M }

local taken = 0 -- locks taken by this worker: makes each holder's mark its own

function _M.new(_, name, opts)
  local dict = ngx.shared[name]
  if not dict then
    return nil, "there is no lua_shared_dict " .. tostring(name)
  end
  opts = opts or {}
  return setmetatable({
    dict = dict,
    timeout = opts.timeout or 5,
    exptime = opts.exptime or 30,
    step = opts.step or 0.001,
    max_step = opts.max_step or 0.5,
  }, mt)
end

function _M.lock(self, key)
  if self.key then
    return nil, "locked"
  end
  taken = taken + 1
  local mark = ngx.worker.pid() .. "/" .. taken
  local step, waited = self.step, 0
  while true do
    local ok, err = self.dict:add(key, mark, self.exptime)
    if ok then
      self.key, self.mark = key, mark
      return waited
    end
    if err ~= "exists" then
      return nil, err
    end
    local left = self.timeout - waited
    if left <= 0 then
      return nil, "timeout"
    end
    step = min(step, left)
    sleep(step)
    waited = waited + step
    step = min(step * 2, self.max_step)
  end
end

function _M.unlock(self)
  local key, mark = self.key, self.mark
  if not key then
    return nil, "unlocked"
  end
  self.key, self.mark = nil, nil
  -- It may have run out and be somebody else's by now.
  if self.dict:get(key) == mark then
    self.dict:delete(key)
  end
  return 1
end

return _M
