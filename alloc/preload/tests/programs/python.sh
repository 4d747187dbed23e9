cat > work.py <<'END'
import json, threading, hashlib, re
data = [{"id": i, "name": "n%d" % i, "values": list(range(i % 50)), "text": "x" * (i % 300)} for i in range(12000)]
text = json.dumps(data)
assert json.loads(text) == data
results = [None] * 6
def work(n):
    parts = []
    for i in range(150):
        parts.append(json.dumps(data[n * 100:n * 100 + i]))
        if i % 3 == 0:
            parts.pop(0)
    results[n] = hashlib.sha256("".join(parts).encode()).hexdigest()
threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
[t.start() for t in threads]
[t.join() for t in threads]
big = bytearray()
for i in range(2000):
    big += bytes([i % 256]) * (i % 997)
print(hashlib.sha256(text.encode()).hexdigest(), results, hashlib.sha256(big).hexdigest())
print(len(re.findall(r'"n(\d+)5"', text)), bytes(5000000).count(0))
END
python3 work.py
