-- Scripts that have to say the same here and in a real Redis, one to a line; keys k1 and k2, arguments a1 and a2.
-- (test_scripts_against_redis.py)
error("boom")
error({err="My Err"})
error({err="foo"})
return {err=5}
return redis.call()
return redis.call({})
return redis.pcall("nosuch")
return redis.pcall("get")
return redis.call("incr","x","y")
redis.call("set","a","b") return redis.call("incr","a")
return redis.pcall("incr","a")
return redis.call("eval","x",0)
return foo
foo=1
KEYS=1
string.x=1
rawset(_G,"a",1)
return redis.call("object","foo")
return redis.call("object")
return tostring(redis.call("get","nokey"))
return redis.setresp(4)
return redis.setresp("x")
return redis.setresp()
return redis.sha1hex()
return redis.sha1hex(5)
return redis.log()
return redis.log(9,"x")
return redis.log("a","x")
return {1.9,-1.9,1e300,0/0,true,false,5}
return redis.breakpoint()
return redis.replicate_commands()
return redis.set_repl(1)
return redis.set_repl()
return redis.set_repl(99)
return redis.acl_check_cmd("get","x")
return redis.acl_check_cmd("nosuch")
return redis.acl_check_cmd()
return redis.call("select",1)
return redis.call("subscribe","x")
return redis.call("echo",0.1)
return redis.call("echo",1e17)
return redis.call("echo",12345678901234567890)
return redis.call("echo",-5)
return redis.error_reply()
return redis.status_reply(1)
return redis.error_reply("-")
return redis.error_reply("")
return redis.status_reply("")
return redis.error_reply("a\r\nb\r\n")
x
return setmetatable(_G,{})
return pairs(nil)
return ("x"):nosuch()
local function f() return f()+1 end return f()
return cjson.decode("{")
return cjson.encode({[1]=1,[100]=2})
return struct.pack("q",1)
return cmsgpack.unpack("\196")
return bit.band("x")
local ok,e=pcall(redis.call,"nosuch") return {type(e),e.err,e.source or "-",e.line or "-"}
local r=redis.pcall("nosuch") local s={} for k,v in pairs(r) do s[#s+1]=k..tostring(v) end return s
return {double=3.5}
return {map={a=1}}
return {set={a=true}}
return {big_number="123"}
return {verbatim_string={string="x",format="txt"}}
return loadstring("return _G.x")()
return loadstring("\27Lua")
return redis.call("multi")
local ok,e=pcall(error,{err="X y"}) return {e.err}
return getmetatable(_G)
local t=setmetatable({},{__index=function() return nil end}) return t.x
error()
error(nil)
error(5)
error(true)
return redis.debug("x")
assert(false)
assert(nil,"msg")
error("x",0)
error("x",2)
local ok,e=pcall(function() return foo end) return e
local ok,e=pcall(function() return redis.call("nosuch") end) return e.err
return {1,2,nil,4}
return {ok="fine",1,2}
return {ok=5}
return {err="E x", source="abc", line=5}
local ok,e=pcall(error,{a=1}) return type(e)
local ok,e=pcall(error,{err=5}) return type(e)
local ok,e=pcall(error,{err="x",a=1}) return {type(e),e}
local ok,e=xpcall(function() return redis.call("nosuch") end, function(e) return e end) return {type(e), type(e)=="table" and e.err or e}
local ok,e=pcall(redis.call,"nosuch") return e
return {tostring(nil),type(collectgarbage("count")),collectgarbage("stop"),collectgarbage()}
return table.insert(redis,5)
return math.randomseed(5)
math.randomseed(42) return {math.random(1000),math.random(5,10)}
return coroutine.wrap(function() coroutine.yield(5) end)()
return coroutine.yield(1)
return xpcall(function() error("a") end, function(e) return "h:"..e end)
local ok,v=xpcall(function() error("a") end, function(e) return "h:"..e end) return v
return cjson.encode({a=1,b={1,2,{}},c="\n\"/\\\127é\0",d=0.1,e=1e15,f=1e14,g=123456789012345,h=true,i=cjson.null})
return cjson.encode({1,2,nil,4})
return cjson.encode({[1]=1,[2]=2,[5]=5})
return cjson.encode({[1.5]=1})
return cjson.encode({[true]=1})
return cjson.encode(print)
return cjson.encode(function() end)
return cjson.encode(0/0)
return cjson.encode(1/0)
return cjson.encode()
return cjson.encode(1,2)
return cjson.encode("x")
return cjson.decode("")
return cjson.decode("[1,2")
return cjson.decode("[1,,2]")
return cjson.decode('{"a" 1}')
return cjson.decode('{"a":1 "b"}')
return cjson.decode('{a:1}')
return cjson.decode('"abc')
return cjson.decode('"a\\x"')
return cjson.decode('"\\ud800"')
return cjson.decode('nope')
return cjson.decode('[1] x')
return cjson.decode('-')
return cjson.decode('01')
return cjson.decode('0x10')
return tostring(cjson.decode('nan'))
return tostring(cjson.decode('Infinity'))
return tostring(cjson.decode('-inf'))
return tostring(cjson.decode('.5'))
return tostring(cjson.decode('1.5e3'))
return cjson.decode('"\\u00e9\\ud83d\\ude00\\n\\/"')
return cjson.decode(("["):rep(1001))
return cjson.decode(("["):rep(1000)..("]"):rep(1000)) and 1
local t={} local r=t for i=1,1001 do t.a={} t=t.a end return cjson.encode(r)
return cjson.decode("nulls")
return cjson.decode(5)
return cjson.decode()
return cjson.decode({})
return tostring(cjson.decode("null")==cjson.null)
return cjson._VERSION..cjson._NAME
return cmsgpack._VERSION..cmsgpack._NAME.._VERSION
return cmsgpack.pack()
return {cmsgpack.unpack(cmsgpack.pack(1,2,"x"))}
return {cmsgpack.unpack_one(cmsgpack.pack(1,2,"x"))}
return {cmsgpack.unpack_one(cmsgpack.pack(1,2,"x"),1)}
return {cmsgpack.unpack_one(cmsgpack.pack(1,2,"x"),2)}
return {cmsgpack.unpack_limit(cmsgpack.pack(1,2,"x"),2)}
return {cmsgpack.unpack_limit(cmsgpack.pack(1,2,"x"),2,1)}
return {cmsgpack.unpack_one("",0)}
return {cmsgpack.unpack_one("a",5)}
return {cmsgpack.unpack_limit("a",-5)}
return {cmsgpack.unpack("")}
return cmsgpack.unpack("\221")
return {struct.unpack(">I4i2s",struct.pack(">I4i2s",5,-3,"abc"))}
return struct.size("bhilfd")
return struct.size("!bhilfdx")
return struct.size("s")
return struct.pack("i99",1)
return struct.pack("i")
return struct.pack("c3","ab")
return struct.unpack("i","ab")
return struct.unpack("i","abcd",9)
return {struct.unpack("c2c0","abc")}
return {struct.unpack("b","a",0)}
return {bit.tobit(0xffffffff),bit.bnot(0),bit.band(255,15,7),bit.bor(1,2,4),bit.bxor(5,1),bit.lshift(1,31),bit.rshift(-1,28),bit.arshift(-8,1),bit.rol(0x12345678,4),bit.ror(0x12345678,4),bit.bswap(0x12345678)}
return {bit.tohex(255),bit.tohex(255,4),bit.tohex(-1,-8),bit.tohex(255,0),bit.tobit(1.5),bit.tobit(2.5),bit.tobit(2^40+3),bit.lshift(1,33),bit.tobit("12")}
return bit.band()
return bit.band("12",7)
return {ok="a\r\nb"}
return {err="a\r\nb"}
return {map=5}
return {set=5}
return {double="x"}
return {[0]=1,2}
return {big_number=5}
return function() end
return cjson.null
return coroutine.create(function() end)
return {function() end, 5}
return string.gsub("abc","b","%1")
return ("x"):find("[")
return ("x"):find("%")
return ("x"):find("(")
return ("x"):find(")")
return string.find()
return string.rep()
return string.find({},"x")
return table.insert({},1,2,3)
return redis.call("ping")
return redis.call("time") and 1
return redis.call("set","a",true)
return redis.call("set","a",nil)
return redis.pcall("set","a",{})
return redis.call("eval_ro","x",0)
return redis.call("config","get","x")
return redis.call("publish","a","b")
return redis.call("client","id")
return redis.call("client","setname","x")
return redis.call("script","load","return 1")
return redis.call("function","list")
return redis.call("monitor")
return redis.call("shutdown")
return redis.call("watch","a")
return redis.call("command","count")>5
return redis.call("hello",3)
return redis.call("reset")
return redis.call("quit")
return redis.call("object","help") and 1
return redis.call("pubsub","channels")
return redis.call("spublish","a","b")
return {KEYS[1],KEYS[2],ARGV[1],ARGV[2],#KEYS,#ARGV}
redis.call('hset',KEYS[1],'f','v') redis.setresp(3) return redis.call('hgetall',KEYS[1])
redis.setresp(3) local r=redis.call('hgetall',KEYS[1]) return r.map.f
return redis.call('hgetall',KEYS[1])
redis.call('del',KEYS[1]) return redis.call('zadd',KEYS[1],1.5,'a',2,'b')
return redis.call('zscore',KEYS[1],'a')
redis.setresp(3) return redis.call('zscore',KEYS[1],'a')
redis.setresp(3) return redis.call('zscore',KEYS[1],'a').double
redis.setresp(3) return redis.call('zrange',KEYS[1],0,-1,'withscores')
return redis.call('zrange',KEYS[1],0,-1,'withscores')
redis.call('del',KEYS[1]) redis.call('sadd',KEYS[1],'m') redis.setresp(3) return redis.call('smembers',KEYS[1])
redis.setresp(3) return redis.call('smembers',KEYS[1]).set.m
return redis.call('smembers',KEYS[1])
redis.setresp(3) return redis.call('get','nokey')
redis.setresp(3) return tostring(redis.call('get','nokey'))
redis.setresp(3) return {redis.call('get','nokey'),1}
redis.setresp(3) return redis.call('mget','nokey','nokey2')
return redis.call('mget','nokey','nokey2')
redis.setresp(3) return true
redis.setresp(3) return false
redis.setresp(3) return {true,false,1}
return {true,false,1}
redis.setresp(3) return {double=1.5}
return {double=1/0}
return {double=3}
return {map={[1]='x'}}
return {map={}}
return {set={}}
redis.setresp(3) return {map={a={map={b=2}}}}
return {big_number='12345678901234567890'}
return {verbatim_string={string='hello',format='mkd'}}
return {verbatim_string={string='hello'}}
return {ok='a',err='b'}
return {1,2,{3,4,{5}},'x',{ok='OK'},{err='E f'}}
return {{},{}}
return {nil}
return {1,nil,3}
return 3.99
return -3.99
return '3.99'
return 9007199254740993
return 1e18
return 2^63
return -2^63
return nil
return
local x=1
return 'é\0\255'
return redis.call('set',KEYS[1],'x','nx')
return redis.call('set',KEYS[1],'x','xx','get')
return redis.call('type',KEYS[1])
return redis.call('type',KEYS[1]).ok
return redis.call('type',KEYS[1])['ok']=='string'
return redis.call('exists','nokey')
return redis.call('incrbyfloat','f'..ARGV[1],0.1)
return redis.call('set','n',3.7)
return redis.call('get','n')
return redis.call('set','n',1e20)
return redis.call('set','n',100)
return redis.call('SeT','n',-0.0)
return redis.call('set','n',1/0)
return redis.call('set','n',0/0)
return redis.call('append','n','x'..1)
return redis.call('lrange','nolist',0,-1)
return redis.call('rpush','l',unpack({1,2,3}))
return redis.call('lrange','l',0,-1)
return redis.call('lpop','l',5)
return redis.call('lpop','l')
return redis.call('hset','h',1)
return redis.call('hset','n','a','b')
return redis.pcall('hset','n','a','b')
return redis.pcall('hset','n','a','b').err
return redis.call('expire','n',100)
return redis.call('scan','0','match','zz*')
return redis.call('geoadd','g',13.36,38.11,'a')
return redis.call('geopos','g','a')
return redis.call('xadd','s','1-1','f','v')
return redis.call('xrange','s','-','+')
redis.setresp(3) return redis.call('xread','streams','s','0')
return redis.call('xread','streams','s','0')
return redis.call('sort','nolist')
return redis.call('zrangebyscore','noz',0,1)
return redis.call('getrange','n',0,100)
return redis.call('setrange','n',0,'abc')
return redis.call('bitcount','n')
return redis.call('echo','a b')
return #redis.call('time')
return redis.call('select',5)
return redis.call('select','x')
redis.call('select',3) redis.call('set','in3','v') return redis.call('get','in3')
return redis.call('get','in3')
return tostring(redis.call('get','in3'))
return redis.call('flushdb')
return string.format('%5.2f|%d|%s|%q|%x|%5s|%-5s|',3.14159,42,'str','q"uote',255,'a','b')
return string.format('%d',3.7)
return string.format('%i')
return string.rep('ab',3)
return ('hello world'):gsub('o','0')
return {('hello world'):gsub('o','0')}
return {('hello world'):find('o w')}
return {('hello world'):find('(o)( )(w)')}
return {('key=val'):match('(%w+)=(%w+)')}
local t={} for w in ('a b c'):gmatch('%a') do t[#t+1]=w end return t
return {('abc'):byte(1,-1)}
return ('x'):rep(3,',')
return table.concat({1,2,3},',')
local t={3,1,2} table.sort(t) return t
local t={1,2} table.insert(t,3) table.insert(t,1,0) return t
return table.remove({1,2,3})
return {select('#',1,2,3),select(2,'a','b')}
return {tonumber('0x10'),tonumber('z',36),tonumber('abc') or 'nil',tonumber('1e2')}
return {tostring(1e15),tostring(0.1),tostring(100),tostring(2^53),tostring(-0.0)}
return {math.floor(3.7),math.ceil(3.2),math.max(1,5,3),math.abs(-4),math.fmod(7,3),7%3,-7%3}
return {type(nil),type(1),type('x'),type({}),type(print or 1),type(redis.call)}
return {pcall(function() error('x') end)}
return {pcall(function() error({1}) end)}
return {pcall(error)}
return {pcall(error,'msg',0)}
return {select(2,pcall(error,'msg'))}
return {xpcall(function() return 1,2 end,function() end)}
local ok,e=pcall(function() local x=nil; return x.y end) return e
local ok,e=pcall(function() return 1+{} end) return e
local ok,e=pcall(function() return #5 end) return e
local ok,e=pcall(function() return {}<{} end) return e
local ok,e=pcall(function() nofunc() end) return e
local ok,e=pcall(string.rep) return e
local ok,e=pcall(('x').rep,'x',{}) return e
local x=nil; return x.y
return 1+{}
return nofunc()
redis.nofunc()
local t={} t.x.y=1
return ("x")..nil
return redis.call('get',KEYS)
error({err='CODE text',source='other',line=99})
error('CODE text')
return error('-CODE text')
return redis.error_reply('CODE text')
error(redis.error_reply('CODE text'))
return redis.call('get')
local r=redis.pcall('get') return r
local function f() return redis.call('nosuch') end return f()
local function f() local x=redis.call('nosuch') return x end local y=f() return y
for i=1,2 do redis.call('nosuch') end
return (function() return redis.call('nosuch') end)()
return cjson.encode({1,2,3})
return cjson.encode({a={b={c=1}}})
return cjson.encode({})
return cjson.encode('\1\2\31\127')
return cjson.encode('é')
return cjson.encode(1)
return cjson.encode(-0.5)
return cjson.encode(123456789)
return cjson.encode(1e100)
return cjson.encode(nil)
return cjson.encode(true)
return cjson.encode({[3]='x'})
return cjson.encode({[1]='x',[3]='y'})
return cjson.encode({1,nil,nil,4})
return cjson.encode({[-1]='x'})
return cjson.encode({[0]='x'})
local t=cjson.decode('{"a":[1,2,{"b":null}],"c":"d","e":1.5,"f":true,"g":false}') return {t.a[1],t.a[3].b==cjson.null,t.c,tostring(t.e),t.f,t.g}
local t=cjson.decode('[1, 2 ,3 ]') return t
local t=cjson.decode(' { "x" : -1.25e-2 } ') return tostring(t.x)
return cjson.encode(cjson.decode('[1e3,0.1,123456789012345678]'))
return cjson.decode('"\\u0041\\u20ac\\ud834\\udd1e"')
return cjson.decode('"a\\tb\\nc\\\\d\\/e\\"f\\b\\f\\r"')
return cjson.decode('[1')
return cjson.decode('[1}')
return cjson.decode('{"a":}')
return cjson.decode('{"a"}')
return cjson.decode('{,}')
return cjson.decode('[tru]')
return cjson.decode('[nul')
return cjson.decode('1 2')
return cjson.decode('"\\u12"')
return cjson.decode('"\\')
return cjson.decode('+1')
return cjson.decode('1.')
return cjson.decode('1e')
return cjson.decode("'a'")
return cjson.decode('{"a":1,}')
return cjson.decode('[1,]')
return tostring(cjson.decode('1e400'))
return tostring(cjson.decode('-0'))
return cmsgpack.pack(1)
return cmsgpack.pack(-1,-32,-33,-128,-129,-32768,-32769,-2147483648,-2147483649)
return cmsgpack.pack(127,128,255,256,65535,65536,4294967295,4294967296,2^53)
return cmsgpack.pack(1.5,0.1,1e300,-2.5,1/0,-1/0)
return cmsgpack.pack(true,false,nil)
return cmsgpack.pack('',('x'):rep(31),('x'):rep(32),('x'):rep(255),('x'):rep(256))
return cmsgpack.pack(('x'):rep(65536))
return cmsgpack.pack({},{1,2,3},{a=1},{[2]=1})
local t={} for i=1,20 do t[i]=i end return cmsgpack.pack(t)
local t={} for i=1,20 do t['k'..i]=1 end return #cmsgpack.pack(t)
local t={} for i=1,20 do t={t} end return cmsgpack.pack(t)
return cmsgpack.pack(function() end)
local t={} t.x=t return cmsgpack.pack(t)
return cmsgpack.unpack(cmsgpack.pack({1,2,{3}}))
return cmsgpack.unpack(cmsgpack.pack({a='b'})).a
return tostring(cmsgpack.unpack(cmsgpack.pack(1.5)))
return {cmsgpack.unpack(cmsgpack.pack(-1,-32,-33,-128,-129,-32768,-32769,-2147483648,-2147483649))}
return {cmsgpack.unpack(cmsgpack.pack(127,128,255,256,65535,65536,4294967295,4294967296,2^53))}
return cmsgpack.unpack('\193')
return cmsgpack.unpack('\205\1')
return cmsgpack.unpack('\145')
return cmsgpack.unpack({})
return cmsgpack.unpack_one('\1\2\3',1)
return struct.pack('>b',1)
return struct.pack('<hHiIlL',-1,65535,-2,4294967295,-3,5)
return struct.pack('>hHiIlL',-1,65535,-2,4294967295,-3,5)
return struct.pack('!8 b i d',1,2,3.5)
return struct.pack('!4bibibi',1,2,3,4,5,6)
return struct.pack('s','abc')
return struct.pack('c5','abcdefgh')
return struct.pack('c0','abcdefgh')
return struct.pack('bxb',1,2)
return struct.pack('i3',70000)
return struct.pack('>i7',-5)
return struct.pack('>I16',5)
return struct.pack('f',1.5)
return struct.pack('>d',-1.5)
return struct.pack('b',300)
return struct.pack('B',-1)
return struct.pack('T',7)
return {struct.unpack('<hHiIlL',struct.pack('<hHiIlL',-1,65535,-2,4294967295,-3,5))}
return {struct.unpack('bc0','\3abcd')}
return {struct.unpack('s','ab\0cd')}
return {struct.unpack('s','abcd')}
return {struct.unpack('c2','abcd',2)}
return {struct.unpack('>I3','\1\2\3')}
return {struct.unpack('bxb','\1\2\3')}
return {struct.unpack('','')}
return {struct.unpack('!4bi','\1\0\0\0\5\0\0\0')}
return struct.size('i3c5')
return struct.size('!4bi')
return struct.size('c0')
return struct.pack('!3i',1)
return struct.pack('b','x')
return struct.pack('b')
return struct.pack('s')
return struct.pack('i0',1)
return struct.unpack('i','abc')
return {bit.band(0xff,0x0f),bit.bor(1,2),bit.bxor(7,2),bit.bnot(5)}
return {bit.lshift(1,4),bit.rshift(256,4),bit.arshift(-256,4),bit.lshift(1,32),bit.rshift(1,-1)}
return {bit.rol(0x80000001,1),bit.ror(1,1),bit.bswap(1),bit.tobit(2^32+5),bit.tobit(-1.5),bit.tobit(0.5)}
return {bit.tohex(10),bit.tohex(10,2),bit.tohex(10,-2),bit.tohex(-1),bit.tohex(2^33)}
return bit.band('a',1)
return bit.band(nil)
return bit.lshift(1)
return bit.tohex()
return loadstring('return 1+1')()
return {loadstring('x x')}
return load(function() return nil end) ~= nil
local s={'return ','5'} local i=0 return load(function() i=i+1 return s[i] end)()
return loadstring('return redis.call("echo","x")')()
local t=setmetatable({},{__index=function(t,k) return k..'!' end}) return t.abc
local t=setmetatable({},{__call=function(s,a) return a end}) return t(5)
return rawequal('a','a')
return rawget({a=1},'a')
local co=coroutine.create(function(a) local b=coroutine.yield(a+1) return b*2 end) local _,x=coroutine.resume(co,1) local _,y=coroutine.resume(co,10) return {x,y,coroutine.status(co)}
local g=coroutine.wrap(function() for i=1,3 do coroutine.yield(i) end end) return {g(),g(),g()}
local co=coroutine.create(function() redis.call('nosuch') end) local ok,e=coroutine.resume(co) return {ok,type(e)}
return {ipairs({1})}
local n=0 for k,v in pairs(redis) do n=n+1 end return n>10
local n=0 for k,v in pairs({a=1,b=2}) do n=n+v end return n
return redis.sha1hex('abc')
return redis.LOG_WARNING
redis.log(redis.LOG_WARNING,'hello')
redis.log(redis.LOG_DEBUG,'a',1,'b')
return redis.set_repl(redis.REPL_ALL)
return table.getn({1,2,3})
return table.maxn({1,2,[10]=3})
return _VERSION
return string.gfind ~= nil
return ('%d'):format(5)
return ('x'):len()
return -2^31
return 0x7fffffffffffffff
return tostring(0x7fffffffffffffff)
return {tostring(1/0),tostring(-1/0),tostring(0/0)}
return {[1]='a',[2]='b',x='c'}
return unpack({1,2})
return {unpack({1,2,3},2)}
return ('abc'):sub(2,10)
return ('%a+'):gsub('%%','%%%%')
return ('abc'):gsub('','-')
return ('abc'):gsub('%w','%0%0')
return ('abc'):gsub('(a)(b)','%2%1')
return ('abc'):gsub('b',{b='X'})
return ('abc'):gsub('b',function(c) return nil end)
return ('abc'):gsub('b',function(c) return {} end)
return ('hello'):find('l',1,true)
return ('a.b'):find('.',1,true)
return ('f(a(b)c)d'):match('%b()')
return ('THE (quick) fox'):find('%((%a+)%)')
return ('x'):find('%f[%a]x')
return ('abc'):find('b',-1)
return ('abc'):find('',10)
return ('abc'):gsub('b',function(c) error('own') end)
return ('abc'):gsub('b',function(c) return redis.call('nosuch') end)
return cjson.decode('+')
return cjson.decode('-inf')
error('x')
table.sort({3,2,1},function(a,b) error('cmp') end)
return table.foreach({1},function(k,v) error('f') end)
return math.random(0)
return math.random(2,1)
return math.floor('x')
return math.floor()
return tonumber()
return ipairs()
return setmetatable(1,{})
return setmetatable({},1)
return rawset(1,2,3)
return rawget(1,2)
return select()
return select(0)
return unpack()
return table.concat({{}})
return table.concat({1,2,nil,4},',',1,4)
return coroutine.resume(1)
return coroutine.create(1)
return load(1)
return string.char(256)
return string.format('%d','x')
return string.format('%y',1)
return redis.sha1hex({})
return redis.log({},1)
return bit.nothing(1)
local t={} t[nil]=1
local t={} t[0/0]=1
return next({},'nokey')
return ('x')()
return #nil
return -{}
