local throttle = require("resty.global_throttle")
local store = { provider = "memcached", host = "127.0.0.1", port = 11211, connect_timeout = 500, max_idle_timeout = 10000, pool_size = 5 }

for _, bad in ipairs({ { "n", 5, 60, {} }, { "n", 5, 60, { provider = "redis" } }, { "n", 0, 60, store }, { "n", 5, 0, store } }) do
  local t, err = throttle.new(unpack(bad))
  assert(not t and err)
end

-- The clock stands still, so that it is known which window a request is in.
local time = 6000000
ngx.now = function() return time end

local t = assert(throttle.new("namespace", 5, 60, store))
for i = 1, 5 do
  local count, delay, err = t:process("key with spaces\r\n")
  assert(not err, err)
  assert(count == i and not delay, count)
end
local count, delay = t:process("key with spaces\r\n")
assert(count == 6 and delay == 60, tostring(delay)) -- nothing was there in the window before
assert(assert(throttle.new("other namespace", 5, 60, store)):process("key with spaces\r\n") == 1)
assert(t:process("another key") == 1)

-- Half way through the next window, half of the last one's 6 count.
time = time + 90
count, delay = t:process("key with spaces\r\n")
assert(count == 4 and not delay, tostring(count))
t:process("key with spaces\r\n")
count, delay = t:process("key with spaces\r\n")
assert(count == 6 and math.abs(delay - 10) < 0.01, tostring(delay)) -- 1 too many of 6 in 60 s: room in 10 s
time = time + 10
count, delay = t:process("key with spaces\r\n")
assert(count == 6 and delay, tostring(count))

time = time + 600
count, delay = t:process("key with spaces\r\n")
assert(count == 1 and not delay, tostring(count))

local err
store.port = 1
count, delay, err = assert(throttle.new("namespace", 5, 60, store)):process("key")
assert(count == nil and delay == nil and err:find("connecting to memcached", 1, true), err)
