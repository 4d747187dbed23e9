cat > work.py <<'END'
import hashlib, multiprocessing, os, threading

def work(n):
    data = bytearray(n % 300000 + 1)
    data[::4096] = b'x' * len(data[::4096])
    return n, hashlib.sha256(data).hexdigest()

def nested(n):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, work(n * 1000)[1].encode())
        os._exit(0)
    os.close(writer)
    answer = os.read(reader, 100).decode()
    os.close(reader)
    return os.waitpid(child, 0)[1], answer

if __name__ == '__main__':
    held = [bytearray(1 << 20) for _ in range(40)]
    stop = threading.Event()
    def churn():
        while not stop.is_set():
            bytearray(500000)[::4096]
    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    for method in ['fork', 'forkserver', 'spawn']:
        with multiprocessing.get_context(method).Pool(3) as pool:
            print(method, hashlib.sha256(repr(pool.map(work, range(0, 900000, 1777), 20)).encode()).hexdigest())
            print(pool.map(nested, range(20))[7])
    stop.set()
    for thread in threads:
        thread.join()
    print(sum(sum(block) for block in held))
END
python3 work.py
