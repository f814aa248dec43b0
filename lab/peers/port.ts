import type { Child } from '../child.ts'
import type { LabNetwork } from '../namespace.ts'

/** Resolves when somebody in the lab listens on the TCP port. */
export async function portListening(network: LabNetwork, server: Child, port: number): Promise<void> {
  const deadline = Date.now() + 10_000
  while (!(await network.run(['ss', '-Hltn', `sport = :${port}`], 'ss')).includes(`:${port}`)) {
    if (!server.running || Date.now() > deadline) {
      throw new Error(`${server.name} does not listen on port ${port}: ${server.errorText}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}
