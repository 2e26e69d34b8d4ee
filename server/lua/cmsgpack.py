"""The cmsgpack library, in Lua: MessagePack as lua-cmsgpack reads and writes it. Doubles are the host's work."""

from __future__ import annotations

from typing import Final

SOURCE: Final = rb"""
do
    local char = string.char
    -- Tables nested deeper are written as nil.
    local DEEPEST = 16

    -- The big-endian bytes of a whole number; negative ones as their complement.
    local function whole(value, count)
        if value < 0 then
            local low = value % 4294967296
            if count == 8 then return whole(floor(value / 4294967296) % 4294967296, 4) .. whole(low, 4) end
            value = value % 256 ^ count
        elseif count == 8 then
            return whole(floor(value / 4294967296), 4) .. whole(value % 4294967296, 4)
        end
        if count == 1 then return char(value) end
        if count == 2 then return char(floor(value / 256), value % 256) end
        return char(floor(value / 16777216), floor(value / 65536) % 256, floor(value / 256) % 256, value % 256)
    end

    local function integer(value)
        if value >= 0 then
            if value <= 127 then return char(value) end
            if value <= 255 then return "\204" .. whole(value, 1) end
            if value <= 65535 then return "\205" .. whole(value, 2) end
            if value <= 4294967295 then return "\206" .. whole(value, 4) end
            return "\207" .. whole(value, 8)
        end
        if value >= -32 then return char(256 + value) end
        if value >= -128 then return "\208" .. whole(value, 1) end
        if value >= -32768 then return "\209" .. whole(value, 2) end
        if value >= -2147483648 then return "\210" .. whole(value, 4) end
        return "\211" .. whole(value, 8)
    end

    local function sized(size, fixed, most, codes)
        if size <= most then return char(fixed + size) end
        if codes[1] and size <= 255 then return codes[1] .. whole(size, 1) end
        if size <= 65535 then return codes[2] .. whole(size, 2) end
        return codes[3] .. whole(size, 4)
    end

    local STRINGS, ARRAYS, MAPS = { "\217", "\218", "\219" }, { false, "\220", "\221" }, { false, "\222", "\223" }

    -- How many elements, when the keys are 1 to that many; and how many pairs.
    local function shape(t)
        local most, count, is_array = 0, 0, true
        for key in next, t do
            count = count + 1
            if type(key) ~= "number" or key < 1 or floor(key) ~= key then
                is_array = false
            elseif key > most then
                most = key
            end
        end
        return is_array and most == count, count
    end

    local write_packed

    local function write_table(out, t, depth)
        t = views[t] or t
        local is_array, count = shape(t)
        out[#out + 1] = is_array and sized(count, 0x90, 15, ARRAYS) or sized(count, 0x80, 15, MAPS)
        if is_array then
            for i = 1, count do write_packed(out, rawget(t, i), depth) end
            return
        end
        for key, value in next, t do
            write_packed(out, key, depth)
            write_packed(out, value, depth)
        end
    end

    write_packed = function(out, value, depth)
        local kind = type(value)
        if kind == "string" then
            out[#out + 1] = sized(#value, 0xA0, 31, STRINGS)
            out[#out + 1] = value
        elseif kind == "number" then
            if value == floor(value) and value >= -2 ^ 63 and value < 2 ^ 63 then
                out[#out + 1] = integer(value)
            else
                out[#out + 1] = from_host(2, pcall(host.pack_double, value))
            end
        elseif kind == "boolean" then
            out[#out + 1] = value and "\195" or "\194"
        elseif kind == "table" and depth < DEEPEST then
            write_table(out, value, depth + 1)
        else
            out[#out + 1] = "\192"
        end
    end

    -- Reading -------------------------------------------------------------------------------------------------------

    local BAD, SHORT = "Bad data format in input.", "Missing bytes in input."
    local DEEPEST_INPUT = 5000
    local data, size

    local function need(at, count)
        if at + count - 1 > size then error(SHORT, 0) end
    end

    local function unsigned(at, count)
        need(at, count)
        local value = 0
        for i = at, at + count - 1 do value = value * 256 + byte(data, i) end
        return value
    end

    local function signed(at, count)
        local value = unsigned(at, count)
        if byte(data, at) < 128 then return value end
        if count < 8 then return value - 256 ^ count end
        -- In two halves, because a double has not enough digits for the whole.
        return (unsigned(at, 4) - 4294967296) * 4294967296 + unsigned(at + 4, 4)
    end

    local read_packed

    local function text_at(at, count)
        need(at, count)
        return sub(data, at, at + count - 1), at + count
    end

    local function array_at(at, count, depth)
        local made = {}
        for i = 1, count do made[i], at = read_packed(at, depth) end
        return made, at
    end

    local function map_at(at, count, depth)
        local made = {}
        for _ = 1, count do
            local key, value
            key, at = read_packed(at, depth)
            value, at = read_packed(at, depth)
            if key == nil or key ~= key then error("table index is " .. (key == nil and "nil" or "NaN"), 0) end
            made[key] = value
        end
        return made, at
    end

    local LENGTHS = { [0xD9] = 1, [0xDA] = 2, [0xDB] = 4 }

    read_packed = function(at, depth)
        need(at, 1)
        if depth > DEEPEST_INPUT then error(BAD, 0) end
        local c = byte(data, at)
        if c < 0x80 then return c, at + 1 end
        if c >= 0xE0 then return c - 256, at + 1 end
        if c < 0x90 then return map_at(at + 1, c - 0x80, depth + 1) end
        if c < 0xA0 then return array_at(at + 1, c - 0x90, depth + 1) end
        if c < 0xC0 then return text_at(at + 1, c - 0xA0) end
        if c == 0xC0 then return nil, at + 1 end
        if c == 0xC2 then return false, at + 1 end
        if c == 0xC3 then return true, at + 1 end
        local width = LENGTHS[c]
        if width then return text_at(at + 1 + width, unsigned(at + 1, width)) end
        if c == 0xCA or c == 0xCB then
            width = c == 0xCA and 4 or 8
            need(at + 1, width)
            return from_host(2, pcall(host.unpack_double, sub(data, at + 1, at + width))), at + 1 + width
        end
        if c >= 0xCC and c <= 0xCF then
            width = 2 ^ (c - 0xCC)
            return unsigned(at + 1, width), at + 1 + width
        end
        if c >= 0xD0 and c <= 0xD3 then
            width = 2 ^ (c - 0xD0)
            return signed(at + 1, width), at + 1 + width
        end
        if c == 0xDC then return array_at(at + 3, unsigned(at + 1, 2), depth + 1) end
        if c == 0xDD then return array_at(at + 5, unsigned(at + 1, 4), depth + 1) end
        if c == 0xDE then return map_at(at + 3, unsigned(at + 1, 2), depth + 1) end
        if c == 0xDF then return map_at(at + 5, unsigned(at + 1, 4), depth + 1) end
        error(BAD, 0)
    end

    local function settled(level, ok, ...)
        if ok then return ... end
        local problem = ...
        if type(problem) ~= "string" or problem == limits.too_long or problem == NO_MEMORY then error(problem, 0) end
        error(problem, level)
    end

    local function packed(...)
        local pieces = {}
        for i = 1, select("#", ...) do write_packed(pieces, (select(i, ...)), 0) end
        return concat(pieces)
    end

    local function unpacked(given, most, offset)
        data, size = given, #given
        local found, count, at = {}, 0, offset + 1
        while at <= size and (most == 0 or count < most) do
            count = count + 1
            found[count], at = read_packed(at, 0)
        end
        return found, count, at
    end

    local function read_some(name, given, most, offset, wants_offset)
        if type(given) == "number" then given = tostring(given) end
        if type(given) ~= "string" then
            error(format("bad argument #1 to '%s' (string expected, got %s)", name, type(given)), 3)
        end
        if offset < 0 or most < 0 then
            error(format("Invalid request to unpack with offset of %d and limit of %d.", offset, #given), 3)
        end
        if offset > #given then
            error(format("Start offset %d greater than input length %d.", offset, #given), 3)
        end
        local found, count, at = settled(4, pcall(unpacked, given, most, offset))
        if not wants_offset then return unpack(found, 1, count) end
        return at > #given and -1 or at - 1, unpack(found, 1, count)
    end

    local cmsgpack = { _NAME = "cmsgpack", _VERSION = "lua-cmsgpack 0.4.0" }

    function cmsgpack.pack(...)
        if select("#", ...) == 0 then error("bad argument #0 to 'pack' (MessagePack pack needs input.)", 2) end
        return settled(3, pcall(packed, ...))
    end

    function cmsgpack.unpack(given) return read_some("unpack", given, 0, 0, false) end

    function cmsgpack.unpack_one(given, offset)
        return read_some("unpack_one", given, 1, tonumber(offset) or 0, true)
    end

    function cmsgpack.unpack_limit(given, most, offset)
        return read_some("unpack_limit", given, tonumber(most) or 0, tonumber(offset) or 0, true)
    end

    lib.cmsgpack = cmsgpack
end

local function reset_libraries() reset_cjson() end
"""
