cat > work.js <<'END'
const crypto = require('crypto'), zlib = require('zlib');
const sum = (bytes) => crypto.createHash('sha256').update(bytes).digest('hex');
const data = Array.from({length: 30000}, (_, i) => ({id: i, name: 'n' + i, list: Array(i % 20).fill(i)}));
const text = JSON.stringify(data);
console.log(sum(text), JSON.parse(text).length);
const parts = [];
for (let i = 0; i < 2000; i++) parts.push(Buffer.alloc(i * 13 % 9000, i % 256));
const all = Buffer.concat(parts);
console.log(sum(all), all.indexOf(77), sum(zlib.inflateSync(zlib.deflateSync(all))));
console.log(Buffer.alloc(3000000).every((byte) => byte === 0), new Float64Array(500000).every((x) => x === 0));
const {Worker} = require('worker_threads');
const code = "require('worker_threads').parentPort.postMessage(Array.from({length: 99999}, (_, i) => i % 7).join(''))";
let left = 3;
for (let i = 0; i < 3; i++)
    new Worker(code, {eval: true}).on('message', (m) => { if (--left === 0) console.log(sum(m)); });
END
node work.js
