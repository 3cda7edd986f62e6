-- A rate limit that all replicas share, counted in memcached by sliding windows: what came
-- in the window before counts for the part of it that is less than one window ago.
--
--   local throttle, err = global_throttle.new("namespace", 10, 60, {   -- 10 in any 60 seconds
--     provider = "memcached", host =, port =, connect_timeout = ms,
--     max_idle_timeout = ms, pool_size = connections })
--   local count, delay, err = throttle:process("key")
--   -- count: estimate, this request included; delay: seconds until there is room, nil if there is now
local floor, max, min = math.floor, math.max, math.min
local format, match = string.format, string.match

local _M = {}
local mt = { __index = _M }

function _M.new(namespace, limit, window_size, store)
  if type(store) ~= "table" or store.provider ~= "memcached" then
    return nil, "the only provider is memcached"
  end
  if not store.host or store.host == "" or not store.port then
    return nil, "memcached's host and port are needed"
  end
  if type(limit) ~= "number" or limit < 1 or type(window_size) ~= "number" or window_size <= 0 then
    return nil, "limit and window_size must be positive numbers"
  end
  return setmetatable({ namespace = namespace, limit = limit, window = window_size, store = store }, mt)
end

local function ask(sock, command)
  local ok, err = sock:send(command)
  if not ok then
    return nil, err
  end
  return sock:receive("*l")
end

-- The counter's new value. It is kept for as long as it is looked at.
local function increment(sock, key, seconds)
  for _ = 1, 2 do
    local line, err = ask(sock, format("incr %s 1\r\n", key))
    if not line then
      return nil, err
    end
    if match(line, "^%d+") then
      return tonumber(match(line, "^%d+"))
    end
    if line ~= "NOT_FOUND" then
      return nil, "memcached says " .. line
    end
    line, err = ask(sock, format("add %s 0 %d 1\r\n1\r\n", key, seconds))
    if not line then
      return nil, err
    end
    if line == "STORED" then
      return 1
    end
    if line ~= "NOT_STORED" then -- else somebody else added it
      return nil, "memcached says " .. line
    end
  end
  return nil, "the counter comes and goes"
end

local function read(sock, key)
  local line, err = ask(sock, format("get %s\r\n", key))
  if not line then
    return nil, err
  end
  if line == "END" then
    return 0
  end
  local length = match(line, "^VALUE %S+ %d+ (%d+)")
  if not length then
    return nil, "memcached says " .. line
  end
  local value
  value, err = sock:receive(tonumber(length) + 2)
  if not value then
    return nil, err
  end
  line, err = sock:receive("*l")
  if line ~= "END" then
    return nil, err or ("memcached says " .. line)
  end
  return tonumber(match(value, "^%d+")) or 0
end

-- Counts before and in the current window, with this request.
local function count(self, key, window)
  local store = self.store
  local sock = ngx.socket.tcp()
  sock:settimeout(store.connect_timeout or 50)
  local ok, err = sock:connect(store.host, store.port, { pool_size = store.pool_size })
  if not ok then
    return nil, nil, format("connecting to memcached at %s:%d: %s", store.host, store.port, err)
  end
  -- Keys have a length and alphabet of their own in memcached; what is hashed fits.
  local name = "throttle." .. ngx.md5(self.namespace .. "\0" .. key) .. "."
  local current, previous
  current, err = increment(sock, name .. window, math.ceil(2 * self.window) + 1)
  if current then
    previous, err = read(sock, name .. (window - 1))
  end
  if not previous then
    sock:close()
    return nil, nil, err
  end
  sock:setkeepalive(store.max_idle_timeout or 10000, store.pool_size or 50)
  return previous, current
end

function _M.process(self, key)
  local now = ngx.now()
  local window = floor(now / self.window)
  local previous, current, err = count(self, key, window)
  if not previous then
    return nil, nil, err
  end
  local left = (window + 1) * self.window - now -- of the current window, in seconds
  local estimate = previous * left / self.window + current
  if estimate <= self.limit then
    return estimate, nil
  end
  -- As time goes by, the window before counts less; if that is not enough, wait for the next.
  local delay = left
  if previous > 0 then
    delay = min(left, (estimate - self.limit) * self.window / previous)
  end
  return estimate, max(delay, 0.001)
end

return _M
